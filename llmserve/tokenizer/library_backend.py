"""A vocabulary of the `tokenizers` library: whatever a tokenizer.json can hold, read or made from other files.

It does what the pipeline says and nothing besides: in particular, whether a prompt begins with a beginning-of-text
token is the post-processor's decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from llmserve.tokenizer.joiners import BytesJoiner, Joiner, TextsJoiner
from llmserve.tokenizer.pieces import Pieces


class LibraryBackend:
    """See `backend.Backend`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        # A saved tokenizer may still carry the padding and truncation of its training.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._plain = _without_names(tokenizer)
        self._pieces = Pieces(tokenizer)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.prefix_ids = self._find_prefix()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_marked(self, text: str) -> list[int]:
        return self.encode(text, add_special_tokens=False)

    def encode_plain(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)

    def token_id(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(name)

    def is_unassigned(self, token: int) -> bool:
        return self._tokenizer.id_to_token(token) is None

    def bytes_of(self, token: int) -> bytes:
        return self._pieces.bytes_of(token)

    def joiner(self, *, continues_text: bool) -> Joiner:
        if self._pieces.byte_level:
            return BytesJoiner(self._pieces.bytes_of)
        return TextsJoiner(self._pieces, continues_text)

    def _find_prefix(self) -> tuple[int, ...]:
        """The special tokens before a text's own; what comes behind it is none of a prompt's."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
        return tuple(encoding.ids[: own[0]] if own else ())


def _without_names(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same pipeline over the same vocabulary (shared, not copied) that knows no added tokens."""
    plain = tokenizers.Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        plain.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        plain.pre_tokenizer = tokenizer.pre_tokenizer
    return plain
