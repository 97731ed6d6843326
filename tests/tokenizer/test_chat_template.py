"""Chat templates: what Hugging Face's own rendering gives, and refusals that are the client's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmserve.errors import EngineDirError, RequestError
from llmserve.tokenizer import ChatTemplate

from .conftest import SHARED

TEMPLATES = SHARED / "tokenizers" / "chat_templates"
GOLDEN = SHARED / "tokenizers" / "chat_golden.json"
HELLO = [{"role": "user", "content": "<hello> & 'you'"}]


def files() -> list[Path]:
    return sorted(TEMPLATES.glob("*.jinja"))


@pytest.mark.skipif(not files(), reason=f"{TEMPLATES} is not here")
@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_it_renders_as_transformers_does(path: Path) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    expected = golden["templates"][f"llama.cpp:{path.name}"]
    template = ChatTemplate(path.read_text("utf-8"), expected["special"])
    for name, messages in golden["conversations"].items():
        for prompt in (True, False):
            text = expected[f"{name}|gen={int(prompt)}"]
            if not isinstance(text, str):  # the template refuses
                with pytest.raises(RequestError):
                    template.render(messages, add_generation_prompt=prompt)
            elif "2026" not in text:  # the day it was made
                assert template.render(messages, add_generation_prompt=prompt) == text


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
