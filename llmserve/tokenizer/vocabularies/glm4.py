"""GLM-4 of the remote-code checkpoints: a tokenizer.model of tiktoken ranks, special tokens behind it.

tokenizer_config.json describes the special tokens; where it does not, they are those of tokenization_chatglm.py.
"""

from __future__ import annotations

from llmserve.tokenizer.byte_level import WORDS_AND_NUMBERS, ByteLevel, byte_level
from llmserve.tokenizer.files import TOKENIZER_MODEL, AddedToken, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.tiktoken_file import read_tiktoken

SPECIAL = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
FORM = ByteLevel(WORDS_AND_NUMBERS, whole_words=True, prefix=("[gMASK]", "<sop>"))


def load(files: TokenizerFiles) -> LibraryBackend:
    vocabulary, merges = read_tiktoken(files.path(TOKENIZER_MODEL))
    added = files.added_tokens or [AddedToken(len(vocabulary) + i, name) for i, name in enumerate(SPECIAL)]
    return LibraryBackend(byte_level(FORM, vocabulary, merges, added))
