"""Qwen v1: qwen.tiktoken, with the special tokens that tokenization_qwen.py adds behind it.

Text is brought to NFC first, special tokens' names included: a name whose `>` a combining character follows is none.
"""

from __future__ import annotations

from llmserve.tokenizer.byte_level import WORDS_AND_DIGITS, ByteLevel, byte_level
from llmserve.tokenizer.files import QWEN_TIKTOKEN, AddedToken, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.tiktoken_file import read_tiktoken

END, START_OF_MESSAGE, END_OF_MESSAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, START_OF_MESSAGE, END_OF_MESSAGE, *(f"<|extra_{i}|>" for i in range(205)))
FORM = ByteLevel(WORDS_AND_DIGITS, nfc=True, whole_words=True)


def load(files: TokenizerFiles) -> LibraryBackend:
    vocabulary, merges = read_tiktoken(files.path(QWEN_TIKTOKEN))
    added = [AddedToken(len(vocabulary) + i, name, normalized=True) for i, name in enumerate(SPECIAL)]
    return byte_level(FORM, vocabulary, merges, added)
