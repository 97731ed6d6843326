"""Tokenizers to test with: small ones made here, and real ones where a checkout has them beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmserve.tokenizer import Tokenizer
from llmserve.tokenizer.pieces import byte_alphabet

SHARED = Path(__file__).parents[2] / ".." / "shared"

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "æ ľ", "ðŁ ĺ"]
"""The last two make tokens of two thirds of a Chinese character and half an emoji."""


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


def sentencepiece(decoder: decoders.Decoder, *, byte_fallback: bool = True) -> tokenizers.Tokenizer:
    """Characters, words with U+2581 for the space, byte tokens."""
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


def shared_backend(folder: str) -> tokenizers.Tokenizer:
    path = SHARED / folder
    if (path / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file():
        made = tokenizers.Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        return made
    pytest.skip(f"{path} is not here")


BACKENDS = {
    "byte-level": byte_level,
    "llama": lambda: sentencepiece(llama_decoder()),
    "gemma": lambda: sentencepiece(gemma_decoder()),
    "metaspace": lambda: sentencepiece(decoders.Metaspace(), byte_fallback=False),
    "metaspace-never": lambda: sentencepiece(decoders.Metaspace(prepend_scheme="never"), byte_fallback=False),
    "wordpiece": lambda: sentencepiece(decoders.WordPiece(), byte_fallback=False),
    "fuse": lambda: sentencepiece(decoders.Fuse(), byte_fallback=False),
    "models/stories260K-hf": lambda: shared_backend("models/stories260K-hf"),
    "models/zh-poem-hf": lambda: shared_backend("models/zh-poem-hf"),
    "tokenizers/qwen2.5": lambda: shared_backend("tokenizers/qwen2.5"),
    "tokenizers/qwen3": lambda: shared_backend("tokenizers/qwen3"),
}


@pytest.fixture(scope="session", params=list(BACKENDS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(BACKENDS[request.param]())
