"""Tools on a real engine: a model of 2.8 million parameters that has never seen one calls them, because it has to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from .conftest import Build
from .server import Server, serving

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n<tool_call>{% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "Bonn"]}, "days": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "additionalProperties": False}}},
]
HI: Any = [{"role": "user", "content": "What is the weather?"}]


@pytest.fixture(scope="module")
def server(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "template.jinja").write_text(TEMPLATE, "utf-8")
    with serving(build("demo"), folder / "log", "--chat-template", str(folder / "template.jinja")) as server:
        yield server


def calls(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def test_the_log_says_which_forms_the_model_has(server: Server) -> None:
    assert "tool calls: hermes, reasoning: left in the text" in server.log


@pytest.mark.parametrize("seed", range(4))
def test_a_tool_that_is_required_is_called(server: Server, seed: int) -> None:
    ask: dict[str, Any] = {"model": server.model, "messages": HI, "tools": TOOLS, "seed": seed, "max_tokens": 200}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        ask |= {"tool_choice": choice, "parallel_tool_calls": False}
        whole = server.client.chat.completions.create(**ask).choices[0]
        assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
        [(name, arguments)] = calls(whole.message)
        assert name == "weather" or choice == "required"
        jsonschema.validate(arguments, {"weather": SCHEMA, "time": {"maxProperties": 0}}[name])
        with server.client.chat.completions.stream(**ask) as stream:
            assert calls(stream.get_final_completion().choices[0].message) == [(name, arguments)]


def test_a_tool_is_called_in_python(build: Build, tmp_path: Path) -> None:
    """As ChatGLM3 calls it, with all that a schema of its calls can have."""
    properties = {**SCHEMA["properties"], "more": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}
    schema = {**SCHEMA, "properties": properties, "required": ["city", "days", "more"]}
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    (tmp_path / "template.jinja").write_text(TEMPLATE, "utf-8")
    flags = ("--chat-template", str(tmp_path / "template.jinja"), "--tool-call-parser", "chatglm3")
    with serving(build("demo"), tmp_path / "log", *flags) as server:
        for seed in range(4):
            choice = server.client.chat.completions.create(
                model=server.model, messages=HI, tools=tools, tool_choice="required", seed=seed, max_tokens=200
            ).choices[0]
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            [(name, arguments)] = calls(choice.message)
            assert name == "weather"
            jsonschema.validate(arguments, schema)


def test_strict_tools_leave_the_choice_to_the_model(server: Server) -> None:
    """To a model that never calls one it makes no difference."""
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    asked: dict[str, Any] = {"model": server.model, "messages": HI, "temperature": 0, "max_tokens": 30}
    said = [
        server.client.chat.completions.create(tools=tools, **asked).choices[0].message.content
        for tools in (strict, [{"type": "function", "function": {**strict[0]["function"], "strict": False}}])
    ]
    assert said[0] == said[1]


class Sum(BaseModel):
    a: int
    b: int


@pytest.mark.parametrize("seed", range(2))
def test_responses_are_parsed(server: Server, seed: int) -> None:
    parsed = server.client.responses.parse(
        model=server.model, input="Add.", text_format=Sum, max_output_tokens=200, extra_body={"seed": seed}
    )
    assert isinstance(parsed.output_parsed, Sum)
    flat = [{**tool["function"], "type": "function", "strict": False} for tool in TOOLS]
    called = server.client.responses.create(
        model=server.model, input="Hi", tools=flat, tool_choice="required", parallel_tool_calls=False,
        max_output_tokens=200, extra_body={"seed": seed},
    )  # fmt: skip
    assert [item.type for item in called.output] == ["function_call"]
