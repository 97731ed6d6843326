"""Which way of putting conversations a model has: a template, its original code's format, or the stated default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmserve.errors import ConfigError, EngineDirError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import ChatPrompt
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.files import DEFAULT_TEMPLATE, TokenizerFiles, read_text
from llmserve.tokenizer.prompts.baichuan import BaichuanPrompt
from llmserve.tokenizer.prompts.chatglm2 import ChatGLM2Prompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt
from llmserve.tokenizer.prompts.llama2 import Llama2Prompt
from llmserve.tokenizer.prompts.plain import PlainPrompt
from llmserve.tokenizer.prompts.qwen1 import Qwen1Prompt
from llmserve.tokenizer.prompts.template import TemplatePrompt
from llmserve.tokenizer.vocabularies import tokenizer_class


def _qwen1(files: TokenizerFiles, backend: Backend) -> ChatPrompt | None:
    """generation_config.json says whether it is a chat model; of one that does not say, ChatML is assumed."""
    return None if files.generation_config.get("chat_format") == "raw" else Qwen1Prompt.of(backend)


def _chatglm(files: TokenizerFiles, backend: Backend) -> ChatPrompt:
    """Two formats and one tokenizer class: the names that the checkpoint has for itself tell which; 3 is the younger.

    The prompt a server uses is logged at start, so that a wrong guess shows.
    """
    names = (files.tokenizer_config.get("name_or_path"), files.config.get("_name_or_path"))
    told = " ".join(name.lower() for name in names if isinstance(name, str))
    if "chatglm2" in told and "chatglm3" not in told:
        return ChatGLM2Prompt(backend)
    return ChatGLM3Prompt(backend)


ORIGINALS: dict[str, Callable[[TokenizerFiles, Backend], ChatPrompt | None]] = {
    "QWenTokenizer": _qwen1,
    "ChatGLMTokenizer": _chatglm,
    "LlamaTokenizer": lambda files, backend: Llama2Prompt.of(backend),
    "BaichuanTokenizer": lambda files, backend: BaichuanPrompt.of(files),
}
"""Tokenizer class → what its original code makes of a conversation where the checkpoint has no template."""


def choose_prompt(files: TokenizerFiles, backend: Backend) -> ChatPrompt:
    """Raises EngineDirError where the checkpoint's template is not valid."""
    templates = files.chat_templates
    if DEFAULT_TEMPLATE in templates:
        special = files.special_tokens
        compiled = {name: ChatTemplate(source, special) for name, source in templates.items()}
        return TemplatePrompt(compiled, "the checkpoint's chat template")
    original = ORIGINALS.get(tokenizer_class(files) or "")
    return (original(files, backend) if original else None) or PlainPrompt(backend)


def read_prompt(path: Path, files: TokenizerFiles) -> ChatPrompt:
    """`--chat-template FILE`: a Jinja template. Raises ConfigError in one sentence where it cannot be used."""
    try:
        template = ChatTemplate(read_text(path), files.special_tokens)
    except EngineDirError as e:
        reason = str(e).replace("; build the engine again.", ".").replace("; correct it in the checkpoint.", ".")
        raise ConfigError(f"--chat-template {path} cannot be used: {reason}") from None
    return TemplatePrompt({DEFAULT_TEMPLATE: template}, f"the template {path}")
