"""Llama 2 and its kin (Mistral, Gemma, Baichuan): a SentencePiece tokenizer.model; Llama 3: one of tiktoken ranks.

As in transformers, the names of added tokens in a text are those tokens, and the text between them is encoded piece by
piece. Of tokenizer_config.json `add_bos_token`, `add_eos_token`, `bos_token`, `eos_token`, `added_tokens_decoder` are
honoured. `legacy` is not, which says how text *behind* an added token begins: with a space, as in Llama's own code.
"""

from __future__ import annotations

import sentencepiece

from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.byte_level import WORDS_AND_NUMBERS, ByteLevel, byte_level
from llmserve.tokenizer.files import TOKENIZER_MODEL, AddedToken, TokenizerFiles
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.sentencepiece_backend import SentencePieceBackend, load_model
from llmserve.tokenizer.tiktoken_file import is_tiktoken, read_tiktoken

LLAMA3_BEGIN = "<|begin_of_text|>"
LLAMA3_SPECIAL = (
    LLAMA3_BEGIN, "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)), "<|start_header_id|>",
    "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
)  # fmt: skip
"""Llama 3's own; 3.1 gave names to some of the reserved ones, which tokenizer_config.json then describes."""


def load(files: TokenizerFiles) -> Backend:
    return _llama3(files) if is_tiktoken(files.path(TOKENIZER_MODEL)) else _sentencepiece(files)


def _llama3(files: TokenizerFiles) -> Backend:
    vocabulary, merges = read_tiktoken(files.path(TOKENIZER_MODEL))
    added = files.added_tokens or [AddedToken(len(vocabulary) + i, name) for i, name in enumerate(LLAMA3_SPECIAL)]
    form = ByteLevel(WORDS_AND_NUMBERS, whole_words=True, prefix=(LLAMA3_BEGIN,))
    return LibraryBackend(byte_level(form, vocabulary, merges, added))


def _sentencepiece(files: TokenizerFiles) -> Backend:
    model = load_model(files.path(TOKENIZER_MODEL))
    begin = files.special_token("bos_token", _piece(model, model.bos_id()))
    end = files.special_token("eos_token", _piece(model, model.eos_id()))
    own = [i for i in range(model.get_piece_size()) if model.is_control(i) or model.is_unknown(i)]
    added = files.added_tokens or [AddedToken(i, model.id_to_piece(i)) for i in own]
    return SentencePieceBackend(
        model,
        added,
        prefix=[begin] if begin and files.flag("add_bos_token", True) else [],
        suffix=[end] if end and files.flag("add_eos_token", False) else [],
        names_are_tokens=True,
    )


def _piece(model: sentencepiece.SentencePieceProcessor, id: int) -> str | None:
    """None where the model has no such token: the library's -1."""
    return model.id_to_piece(id) if id >= 0 else None
