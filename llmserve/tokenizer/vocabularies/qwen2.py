"""Qwen1.5 to Qwen3: vocab.json with merges.txt; the special tokens are in tokenizer_config.json."""

from __future__ import annotations

from llmserve.tokenizer.byte_level import WORDS_AND_DIGITS, ByteLevel, byte_level
from llmserve.tokenizer.files import TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.vocab_and_merges import read_merges, read_vocabulary


def load(files: TokenizerFiles) -> LibraryBackend:
    form = ByteLevel(WORDS_AND_DIGITS, nfc=True, add_prefix_space=files.flag("add_prefix_space", False))
    return LibraryBackend(byte_level(form, read_vocabulary(files), read_merges(files), files.added_tokens))
