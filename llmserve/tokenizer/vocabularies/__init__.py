"""Which vocabulary a folder holds: a line for each tokenizer class whose files are read without its code.

A tokenizer.json says itself what it is. Everything else is read by the name of its tokenizer class; where no file gives
one, by the model type, and at last by the vocabulary file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from llmserve.errors import EngineDirError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.files import MERGES, QWEN_TIKTOKEN, TOKENIZER_JSON, TOKENIZER_MODEL, VOCAB_JSON, TokenizerFiles

CLASSES = {
    "QWenTokenizer": ("qwen1", (QWEN_TIKTOKEN,)),
    "ChatGLMTokenizer": ("chatglm", (TOKENIZER_MODEL,)),
    "ChatGLM4Tokenizer": ("glm4", (TOKENIZER_MODEL,)),
    "LlamaTokenizer": ("llama", (TOKENIZER_MODEL,)),
    "GemmaTokenizer": ("llama", (TOKENIZER_MODEL,)),
    "BaichuanTokenizer": ("llama", (TOKENIZER_MODEL,)),
    "Qwen2Tokenizer": ("qwen2", (VOCAB_JSON, MERGES)),
    "GPT2Tokenizer": ("gpt2", (VOCAB_JSON, MERGES)),
}
"""Tokenizer class → module of this package, which defines `load`, and the files that it reads."""

MODEL_TYPES = {
    "qwen": "QWenTokenizer",
    "chatglm": "ChatGLMTokenizer",
    "glm": "ChatGLM4Tokenizer",
    "glm4": "ChatGLM4Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "mixtral": "LlamaTokenizer",
    "phi3": "LlamaTokenizer",
    "gemma2": "GemmaTokenizer",
    "baichuan": "BaichuanTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "gpt2": "GPT2Tokenizer",
}
"""config.json's `model_type` → tokenizer class, for files that give none (or transformers' catch-all)."""

BY_FILE = ("QWenTokenizer", "LlamaTokenizer")
"""Whose files tell enough where nothing else does; which words vocab.json is made for, it does not tell."""


def tokenizer_class(files: TokenizerFiles) -> str | None:
    """The class that the checkpoint's author used, as far as it is one of `CLASSES` and reads what is there."""
    names = [*files.class_names, MODEL_TYPES.get(files.model_type or "")]
    there = tuple(path.name for path in files.vocabulary)
    if there in ((), (TOKENIZER_JSON,)):  # it reads nothing then, but it still says how the model chats
        return next((name for name in names if name in CLASSES), None)
    return next((name for name in (*names, *BY_FILE) if name in CLASSES and CLASSES[name][1] == there), None)


def load_vocabulary(files: TokenizerFiles) -> Backend:
    """Raises EngineDirError in one sentence where the files cannot be used."""
    if not files.vocabulary:
        raise EngineDirError(
            f"{files.path(TOKENIZER_JSON)} is not a usable tokenizer (missing, or none of the engine's files); "
            "build the engine again."
        )
    if files.vocabulary[0].name == TOKENIZER_JSON:
        return _module("tokenizer_json")(files)
    name = tokenizer_class(files)
    if name is None:
        told = ", ".join(files.class_names) or "not given"
        raise EngineDirError(
            f"{files.vocabulary[0]} cannot be read without its code: its tokenizer class is {told:.200}, and known are "
            f"{', '.join(sorted(CLASSES))}; make a tokenizer.json of it with transformers."
        )
    return _module(CLASSES[name][0])(files)


def _module(name: str) -> Callable[[TokenizerFiles], Backend]:
    """Imported when it is needed: sentencepiece is not for every engine."""
    return import_module(f"llmserve.tokenizer.vocabularies.{name}").load
