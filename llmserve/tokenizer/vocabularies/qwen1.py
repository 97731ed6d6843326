"""Qwen v1: qwen.tiktoken, with the special tokens that tokenization_qwen.py adds behind it.

Text is brought to NFC first, special tokens' names included: a name whose `>` a combining character follows is none.
That is Python's doing, as in the original: the tables of the `tokenizers` library are of an older Unicode.
"""

from __future__ import annotations

import unicodedata

from llmserve.tokenizer.byte_level import WORDS_AND_DIGITS, ByteLevel, byte_level
from llmserve.tokenizer.files import QWEN_TIKTOKEN, AddedToken, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.tiktoken_file import read_tiktoken

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
FORM = ByteLevel(WORDS_AND_DIGITS, whole_words=True)


class QwenBackend(LibraryBackend):
    """See `backend.Backend`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return super().encode(unicodedata.normalize("NFC", text), add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str) -> list[int]:
        return super().encode_plain(unicodedata.normalize("NFC", text))


def load(files: TokenizerFiles) -> QwenBackend:
    vocabulary, merges = read_tiktoken(files.path(QWEN_TIKTOKEN))
    added = [AddedToken(len(vocabulary) + i, name) for i, name in enumerate(SPECIAL)]
    return QwenBackend(byte_level(FORM, vocabulary, merges, added))
