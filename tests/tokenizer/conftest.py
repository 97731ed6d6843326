"""Tokenizers to test with: small ones made here, and real ones where a checkout has them beside it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from functools import cache

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmserve.tokenizer import ChatPrompt, Tokenizer
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.files import AddedToken
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.pieces import byte_alphabet
from llmserve.tokenizer.prompts.plain import PlainPrompt
from llmserve.tokenizer.sentencepiece_backend import SentencePieceBackend
from tests.shared import shared

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "æ ľ", "ðŁ ĺ"]
"""The last two make tokens of two thirds of a Chinese character and half an emoji."""


def tokenizer_of(made: tokenizers.Tokenizer | Backend, chat: ChatPrompt | None = None) -> Tokenizer:
    backend = LibraryBackend(made) if isinstance(made, tokenizers.Tokenizer) else made
    return Tokenizer(backend, chat or PlainPrompt(backend))


def byte_level() -> tokenizers.Tokenizer:
    """All bytes, a few merges, special tokens, and an added token that is plain text."""
    alphabet = byte_alphabet()
    merges = [tuple(merge.split(" ")) for merge in ["h e", "l l", "he ll", "hell o", "Ġ w", "æ ľ", "ð Ł", "ðŁ ĺ"]]
    names = [*alphabet, *("".join(pair) for pair in merges)]
    made = tokenizers.Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|start|>"])
    made.add_tokens(["plain text, 汉字"])
    return made


def sentencepiece_like(decoder: decoders.Decoder, *, byte_fallback: bool = True) -> tokenizers.Tokenizer:
    """Characters, words with U+2581 for the space, byte tokens, in the `tokenizers` library."""
    names = ["<unk>", "<s>", "</s>"]
    names += [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    names += ["▁", "▁▁", "▁a", "a", "▁hello", "hello", "世", "▁世界", "�", "##b", ".", "'s", " x", "a▁b", "▁a▁"]
    made = tokenizers.Tokenizer(
        models.BPE({name: id for id, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=byte_fallback)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoder
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def llama_decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def gemma_decoder() -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


SENTENCES = ["hello world", "hello 世界", "a hall of hello", "a  b   c", "世界和平", "don't say hello", "12 34 56"]


@cache
def trained_model(**options: object) -> bytes:
    """A SentencePiece model of a few dozen pieces and all bytes; `options` go to the trainer."""
    file = io.BytesIO()
    settings: dict[str, object] = {
        "vocab_size": 320, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "character_coverage": 1.0, "hard_vocab_limit": False, "minloglevel": 2,
        "user_defined_symbols": ["[both ends]"],
    }  # fmt: skip
    sentences: Iterable[str] = iter(SENTENCES * 5)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=file, **settings | options)
    return file.getvalue()


def sentencepiece_backend(names_are_tokens: bool = True, **options: object) -> SentencePieceBackend:
    """`<s>` and `</s>` by name, a special token behind the model, and an added one that is plain text."""
    model = sentencepiece.SentencePieceProcessor(model_proto=trained_model(**options))
    size = model.get_piece_size()
    added = [AddedToken(1, "<s>"), AddedToken(2, "</s>"), AddedToken(size, "<|user|>")]
    added.append(AddedToken(size + 2, "plain text, 汉字", special=False))  # no token has the id before
    return SentencePieceBackend(model, added, prefix=["<s>"], names_are_tokens=names_are_tokens)


def of_folder(folder: str) -> Tokenizer:
    return Tokenizer.load(shared(folder))


TOKENIZERS = {
    "byte-level": lambda: tokenizer_of(byte_level()),
    "llama": lambda: tokenizer_of(sentencepiece_like(llama_decoder())),
    "gemma": lambda: tokenizer_of(sentencepiece_like(gemma_decoder())),
    "metaspace": lambda: tokenizer_of(sentencepiece_like(decoders.Metaspace(), byte_fallback=False)),
    "metaspace-never": lambda: tokenizer_of(
        sentencepiece_like(decoders.Metaspace(prepend_scheme="never"), byte_fallback=False)
    ),
    "wordpiece": lambda: tokenizer_of(sentencepiece_like(decoders.WordPiece(), byte_fallback=False)),
    "fuse": lambda: tokenizer_of(sentencepiece_like(decoders.Fuse(), byte_fallback=False)),
    "sentencepiece": lambda: tokenizer_of(sentencepiece_backend()),
    "sentencepiece-no-prefix": lambda: tokenizer_of(sentencepiece_backend(add_dummy_prefix=False)),
    "sentencepiece-no-bytes": lambda: tokenizer_of(sentencepiece_backend(byte_fallback=False, vocab_size=64)),
    "sentencepiece-trimming": lambda: tokenizer_of(sentencepiece_backend(remove_extra_whitespaces=True)),
    "models/stories260K-hf": lambda: of_folder("models/stories260K-hf"),
    "models/zh-poem-hf": lambda: of_folder("models/zh-poem-hf"),
    "tokenizers/qwen1": lambda: of_folder("tokenizers/qwen1"),
    "tokenizers/qwen2.5": lambda: of_folder("tokenizers/qwen2.5"),
    "tokenizers/qwen3": lambda: of_folder("tokenizers/qwen3"),
    "tokenizers/llama2": lambda: of_folder("tokenizers/llama2"),
    "tokenizers/llama3": lambda: of_folder("tokenizers/llama3"),
    "tokenizers/chatglm3": lambda: of_folder("tokenizers/chatglm3"),
}

SPOIL_RUNS = ("llama", "gemma", "models/stories260K-hf", "models/zh-poem-hf")
"""Their decoders give up a whole run of byte tokens for one that is bad; what was streamed by then stays."""


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def tokenizer_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def any_tokenizer(tokenizer_name: str) -> Tokenizer:
    return TOKENIZERS[tokenizer_name]()


@pytest.fixture(scope="session")
def spoils_runs(tokenizer_name: str) -> bool:
    return tokenizer_name in SPOIL_RUNS


@pytest.fixture(scope="session")
def qwen_chat(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The chat model's: its generation_config.json says so, and the base model's the contrary."""
    source, folder = shared("tokenizers/qwen1"), tmp_path_factory.mktemp("qwen-7b-chat")
    for name, copy in (
        ("qwen.tiktoken", "qwen.tiktoken"),
        ("tokenizer_config.json", "tokenizer_config.json"),
        ("generation_config.chat-7b.json", "generation_config.json"),
    ):
        shutil.copy(source / name, folder / copy)
    return Tokenizer.load(folder)
