"""Which forms a model has shows in the template it is asked with."""

from __future__ import annotations

import pytest

from llmserve.errors import ConfigError
from llmserve.server.answers import reasoning, tools
from llmserve.server.answers.choose import Forms, choose_forms
from llmserve.tokenizer import ChatPrompt, Tokenizer
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.prompts.template import TemplatePrompt

from ...shared import shared

OF_TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "think"),
    "Qwen-QwQ-32B": ("hermes", "think"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3", None),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (None, "think"),
    "GLM-4.6": ("glm45", "think"),
    "Qwen3-Coder": ("qwen3_coder", None),
    "google-gemma-2-2b-it": (None, None),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
}

GLM4 = "[gMASK]<sop>{% for m in messages %}<|user|>\n{{ m.content }}{% endfor %}<|observation|><|assistant|>"


def prompt_of(template: str) -> ChatPrompt:
    return TemplatePrompt({"default": ChatTemplate(template, {})}, "a template")


def names(forms: Forms) -> tuple[str | None, str | None]:
    return forms.tools and forms.tools.name, forms.reasoning and forms.reasoning.name


@pytest.mark.parametrize("name", OF_TEMPLATES)
def test_by_the_template(name: str) -> None:
    source = shared(f"tokenizers/chat_templates/{name}.jinja").read_text("utf-8")
    assert names(choose_forms(prompt_of(source), None, None)) == OF_TEMPLATES[name]


def test_by_a_template_that_is_not_shared() -> None:
    assert names(choose_forms(prompt_of(GLM4), None, None)) == ("glm4", None)


def test_by_the_original_codes_format() -> None:
    chat = Tokenizer.load(shared("tokenizers/chatglm3")).chat
    assert names(choose_forms(chat, None, None)) == ("chatglm3", None)


def test_by_name() -> None:
    chat = prompt_of("{{ messages }}")
    assert choose_forms(chat, None, None) == Forms()
    assert names(choose_forms(chat, "llama3", "think")) == ("llama3", "think")
    assert names(choose_forms(prompt_of(GLM4), "none", "none")) == (None, None)
    assert choose_forms(None, "llama3", None) == Forms(), "without a tokenizer there is no text"
    for flags in (("qwen", None), (None, "qwen")):
        with pytest.raises(ConfigError, match="qwen is not known; choose one of"):
            choose_forms(chat, *flags)


def test_names_are_one_forms_each() -> None:
    for forms in (tools.FORMS, reasoning.FORMS):
        assert len({form.name for form in forms} | {"none"}) == len(forms) + 1


def test_what_is_told_of_them() -> None:
    told = choose_forms(prompt_of(GLM4), None, None).told
    assert told == "tool calls: glm4, reasoning: left in the text"
