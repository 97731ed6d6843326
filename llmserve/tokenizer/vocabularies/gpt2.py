"""GPT-2: vocab.json with merges.txt, the special token among the vocabulary's own."""

from __future__ import annotations

from llmserve.tokenizer.byte_level import ByteLevel, byte_level
from llmserve.tokenizer.files import AddedToken, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.vocab_and_merges import read_merges, read_vocabulary

END = "<|endoftext|>"


def load(files: TokenizerFiles) -> LibraryBackend:
    vocabulary = read_vocabulary(files)
    added = files.added_tokens or [AddedToken(vocabulary[END], END)] if END in vocabulary else files.added_tokens
    begin = files.special_token("bos_token", END)
    form = ByteLevel(
        None,
        add_prefix_space=files.flag("add_prefix_space", False),
        prefix=(begin,) if begin and files.flag("add_bos_token", False) else (),
    )
    return LibraryBackend(byte_level(form, vocabulary, read_merges(files), added))
