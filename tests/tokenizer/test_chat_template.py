"""Chat templates: what Hugging Face's own rendering gives, and refusals that are the client's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import ConfigError, EngineDirError, RequestError
from llmserve.tokenizer import Conversation, Text, Tokenizer
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.files import DEFAULT_TEMPLATE, TokenizerFiles
from llmserve.tokenizer.prompts.template import TemplatePrompt
from tests.shared import SHARED, shared

from .conftest import byte_level

HELLO = [{"role": "user", "content": "<hello> & 'you'"}]
FILES = {f"llama.cpp:{path.name}": path for path in sorted((SHARED / "tokenizers/chat_templates").glob("*.jinja"))}
FOLDERS = {"file:glm45": "glm4.5", "tokenizer_config:qwen3_30b": "qwen3"}


@cache
def golden() -> Any:
    return json.loads(shared("tokenizers/chat_golden.json").read_text("utf-8"))


def check(name: str, template: ChatTemplate) -> None:
    """Every conversation, with and without tools and variables, as transformers rendered it."""
    expected = golden()["templates"][name]
    conversations = golden()["conversations"] | {"tool_conversation": golden()["tool_conversation"]}
    prompt = TemplatePrompt({DEFAULT_TEMPLATE: template}, "a template")
    for key, text in expected.items():
        if key == "special" or (isinstance(text, str) and "2026" in text):  # the day it was made
            continue
        conversation, generate, *rest = key.split("|")
        messages = conversations[conversation]
        tools = golden()["tools"] if "tools" in rest else None
        variables = {"enable_thinking": False} if "enable_thinking=False" in rest else {}
        asked = Conversation(messages, tools=tools, variables=variables)
        if not isinstance(text, str) or (tools and "tools" not in template.reads):  # it refuses, or would not tell
            with pytest.raises(RequestError):
                prompt.parts(asked)
        elif generate == "gen=1":
            assert prompt.parts(asked) == [Text(text, names_are_tokens=True)], key
        else:
            assert template.render(messages, add_generation_prompt=False) == text, key


@pytest.mark.skipif(not FILES, reason="../shared/tokenizers/chat_templates is not beside this checkout")
@pytest.mark.parametrize("name", FILES)
def test_a_file_renders_as_transformers_does(name: str) -> None:
    check(name, ChatTemplate(FILES[name].read_text("utf-8"), golden()["templates"][name]["special"]))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_checkpoints_template_renders_as_transformers_does(name: str) -> None:
    files = TokenizerFiles(shared(f"tokenizers/{FOLDERS[name]}"))
    check(name, ChatTemplate(files.chat_templates[DEFAULT_TEMPLATE], files.special_tokens))


def test_templates_by_name_the_one_for_tools_where_there_are_tools() -> None:
    templates = {"default": ChatTemplate("D", {}), "tool_use": ChatTemplate("T{{ tools[0].x }}", {})}
    prompt = TemplatePrompt(templates, "two")
    assert prompt.parts(Conversation(HELLO)) == [Text("D", names_are_tokens=True)]
    assert prompt.parts(Conversation(HELLO, tools=[{"x": 1}])) == [Text("T1", names_are_tokens=True)]


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_variables_do_not_reach_what_is_not_theirs(name: str) -> None:
    prompt = TemplatePrompt({"default": ChatTemplate("x", {})}, "one")
    with pytest.raises(RequestError) as caught:
        prompt.parts(Conversation(HELLO, variables={name: 1}))
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_file_of_the_operator_goes_before_the_checkpoints(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "C", "eos_token": "<|end|>"}')
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}月{{ eos_token }}", "utf-8")
    tokenizer = Tokenizer.load(tmp_path, file)
    assert tokenizer.chat.parts(Conversation(HELLO)) == [Text("<hello> & 'you'月<|end|>", names_are_tokens=True)]
    assert str(file) in tokenizer.chat.told


@pytest.mark.parametrize(
    "content, named", [(None, "cannot be read: No such file"), (b"\xff", "is not UTF-8"), (b"{% if %}", "valid Jinja")]
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes | None, named: str) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=named) as caught:
        Tokenizer.load(tmp_path, file)
    assert str(caught.value).startswith(f"--chat-template {file} cannot be used: ")
    assert str(caught.value).endswith(".")
    assert "build" not in str(caught.value)
    assert "checkpoint" not in str(caught.value)


def test_tools_and_extra_variables_reach_the_template() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ tools is none }} {{ thinking }}{{ messages[0].role }}", {"bos_token": "<s>"}
    )
    assert template.render(HELLO, variables={"thinking": False}) == "<s>True Falseuser"


def test_to_json_keeps_html_and_unicode() -> None:
    template = ChatTemplate("{{ messages[0].content | tojson }}{{ {'月': 1} | tojson(indent=1) }}", {})
    assert template.render(HELLO) == '"<hello> & \'you\'"{\n "月": 1\n}'


def test_loop_controls_generation_blocks_and_the_date() -> None:
    body = "{% if x == 2 %}{% break %}{% endif %}{% generation %}{{ x }}{% endgeneration %}"
    source = "{% for x in [1, 2] %}" + body + "{% endfor %}"
    assert ChatTemplate(source, {}).render(HELLO) == "1"
    assert len(ChatTemplate("{{ strftime_now('%Y') }}", {}).render(HELLO)) == 4


def test_a_refusal_of_the_template_is_the_clients_error() -> None:
    template = ChatTemplate("{{ raise_exception('roles must\n alternate') }}", {})
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template.render(HELLO)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[0].content + 1 }}", "{{ x.y.z }}"]
)
def test_whatever_else_goes_wrong_is_too_and_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(RequestError):
        ChatTemplate(source, {}).render(HELLO)


def test_a_broken_template_is_found_at_load() -> None:
    with pytest.raises(EngineDirError, match="not valid Jinja"):
        ChatTemplate("{% if %}", {})
