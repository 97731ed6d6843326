"""ChatGLM2 and ChatGLM3: a SentencePiece model, with the special tokens that tokenization_chatglm.py adds behind it.

The names of special tokens are never read out of a text: they enter a prompt as ids only.
"""

from __future__ import annotations

from llmserve.tokenizer.files import TOKENIZER_MODEL, AddedToken, TokenizerFiles
from llmserve.tokenizer.sentencepiece_backend import SentencePieceBackend, load_model

ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *ROLES)
"""ChatGLM2's list ends with `eop`; its prompts and answers have none of the rest."""
PREFIX = ("[gMASK]", "sop")


def load(files: TokenizerFiles) -> SentencePieceBackend:
    model = load_model(files.path(TOKENIZER_MODEL))
    added = [AddedToken(model.get_piece_size() + i, name) for i, name in enumerate(SPECIAL)]
    return SentencePieceBackend(model, added, prefix=PREFIX, names_are_tokens=False)
