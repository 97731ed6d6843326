"""Byte-level BPE put together from its parts: a vocabulary with merges, a pattern that cuts words, added tokens.

The one form that tiktoken files and vocab.json with merges.txt become. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmserve.errors import EngineDirError
from llmserve.tokenizer.files import AddedToken

Merges = Sequence[tuple[str, str]]

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS_AND_DIGITS = WORDS % r"\p{N}"
"""Qwen's: each digit alone."""
WORDS_AND_NUMBERS = WORDS % r"\p{N}{1,3}"
"""Llama 3's and GLM-4's: digits in threes."""


@dataclass(frozen=True, slots=True)
class ByteLevel:
    """How text becomes words and bytes, apart from the vocabulary.

    `pattern`: None is GPT-2's own. `whole_words`: a word that is a token is that token, whatever the merges would make
    of it (tiktoken's rule). `prefix`: names that go before a text with `add_special_tokens`.
    """

    pattern: str | None
    nfc: bool = False
    whole_words: bool = False
    add_prefix_space: bool = False
    prefix: tuple[str, ...] = ()


def byte_level(
    form: ByteLevel, vocabulary: Mapping[str, int], merges: Merges, added: Sequence[AddedToken]
) -> tokenizers.Tokenizer:
    """`vocabulary` and `merges` in GPT-2's alphabet of bytes. Raises EngineDirError where the parts do not fit."""
    try:
        model = models.BPE(dict(vocabulary), list(merges), ignore_merges=form.whole_words)
    except Exception as e:  # the library raises nothing more specific
        reason = " ".join(str(e).split())[:200]
        raise EngineDirError(
            f"The tokenizer's merges do not fit its vocabulary ({reason}); build the engine again."
        ) from None
    made = tokenizers.Tokenizer(model)
    if form.nfc:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = _words(form)
    made.decoder = decoders.ByteLevel()
    for token in added:
        _add(made, token)
    if form.prefix:
        ids = [(name, made.token_to_id(name)) for name in form.prefix]
        made.post_processor = processors.TemplateProcessing(single=[*form.prefix, "$A"], special_tokens=ids)
    return made


def _words(form: ByteLevel) -> pre_tokenizers.PreTokenizer:
    if form.pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=form.add_prefix_space)
    cut = pre_tokenizers.Split(tokenizers.Regex(form.pattern), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=form.add_prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([cut, to_bytes])


def _add(made: tokenizers.Tokenizer, token: AddedToken) -> None:
    kind = tokenizers.AddedToken(
        token.name,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized,
        special=token.special,
    )
    made.add_special_tokens([kind]) if token.special else made.add_tokens([kind])
    if (id := made.token_to_id(token.name)) != token.id:  # the library numbers them itself, one after the other
        raise EngineDirError(
            f"The added token {token.name!r:.100} has the id {token.id}, where the vocabulary leaves {id} for it; "
            "make a tokenizer.json of this tokenizer with transformers and build the engine again."
        )
