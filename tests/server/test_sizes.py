"""How much of everything a body may have: one more than that is refused before each is looked at."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from llmserve.errors import RequestError
from llmserve.grammar import MAX_BYTES
from llmserve.server.kserve.protocol import MAX_ENTRIES, GenerateBody, InferBody
from llmserve.server.protocol.chat import ChatBody
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.protocol.messages import MAX_ARGUMENT_CHARS, MAX_CALLS, MAX_DOCUMENTS, MAX_MESSAGES, MAX_PARTS
from llmserve.server.protocol.responses import MAX_METADATA, ResponsesBody
from llmserve.server.protocol.structured import MAX_CHOICES
from llmserve.server.protocol.tools import MAX_TOOLS
from llmserve.server.protocol.values import MAX_IDS

HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
INNER = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(**more: Any) -> tuple[type[BaseModel], dict[str, Any]]:
    return ChatBody, {"messages": [HI], **more}


def said(content: Any, **more: Any) -> tuple[type[BaseModel], dict[str, Any]]:
    return chat(messages=[{"role": "assistant", "content": content, **more}])


def answer(form: dict[str, Any]) -> tuple[type[BaseModel], dict[str, Any]]:
    return CompletionBody, {"prompt": "hi", "structured_outputs": form}


def response(**more: Any) -> tuple[type[BaseModel], dict[str, Any]]:
    return ResponsesBody, {"input": "hi", **more}


def arguments(size: int) -> dict[str, Any]:
    return {**INNER, "function": {"name": "f", "arguments": f'"{"x" * (size - 2)}"'}}


def schema(size: int) -> dict[str, Any]:
    """Of so many characters as JSON."""
    return {"title": "x" * (size - len('{"title":""}'))}


@pytest.mark.parametrize(
    "make, most, param",
    [
        (lambda n: chat(messages=[HI] * n), MAX_MESSAGES, "messages"),
        (lambda n: said([{"type": "text", "text": "a"}] * n), MAX_PARTS, "messages.0.content"),
        (lambda n: said("", tool_calls=[INNER] * n), MAX_CALLS, "messages.0.tool_calls"),
        (lambda n: chat(tools=[{"type": "function", "function": {"name": "f"}}] * n), MAX_TOOLS, "tools"),
        (lambda n: chat(documents=[{"text": "a"}] * n), MAX_DOCUMENTS, "documents"),
        (lambda n: said("", tool_calls=[arguments(n - 9), arguments(9)]), MAX_ARGUMENT_CHARS, "messages"),
        (lambda n: response(input=[{**CALL, "arguments": f'"{"x" * (n - 2)}"'}]), MAX_ARGUMENT_CHARS, "input"),
        (lambda n: (CompletionBody, {"prompt": [[1] * (n - 5), [2] * 5]}), MAX_IDS, "prompt"),
        (lambda n: response(input=[CALL] * n), MAX_MESSAGES, "input"),
        (lambda n: response(input=[{"role": "user", "content": [{"type": "input_text", "text": "a"}] * n}]),
         MAX_PARTS, "input.0.content"),
        (lambda n: response(tools=[{"type": "function", "name": "f"}] * n), MAX_TOOLS, "tools"),
        (lambda n: response(metadata={str(i): "a" for i in range(n)}), MAX_METADATA, "metadata"),
        (lambda n: answer({"json": schema(n)}), MAX_BYTES, "structured_outputs.json"),
        (lambda n: answer({"json": f"{{{' ' * (n - 2)}}}"}), MAX_BYTES, "structured_outputs.json"),
        (lambda n: answer({"regex": "x" * n}), MAX_BYTES, "structured_outputs.regex"),
        (lambda n: answer({"choice": ["x" * n]}), MAX_BYTES, "structured_outputs.choice"),
        (lambda n: answer({"choice": ["x"] * n}), MAX_CHOICES, "structured_outputs.choice"),
        (lambda n: (GenerateBody, {"text_input": "hi", "parameters": dict.fromkeys(map(str, range(n)))}),
         MAX_ENTRIES, None),
        (lambda n: (GenerateBody, {"text_input": "hi", **dict.fromkeys(map(str, range(n - 1)))}), MAX_ENTRIES, None),
        (lambda n: (InferBody, {"inputs": [], "parameters": dict.fromkeys(map(str, range(n)))}), MAX_ENTRIES, None),
    ],
)  # fmt: skip
def test_one_more_is_refused(make: Any, most: int, param: str | None) -> None:
    kind, body = make(most)
    kind.model_validate(body)
    kind, body = make(most + 1)
    with pytest.raises(RequestError, match=f"{most + 1} .* at most {most}") as refused:
        kind.model_validate(body)
    assert refused.value.param == param


def test_calls_of_one_turn_are_one_message_in_their_order() -> None:
    items = [{**CALL, "call_id": str(i)} for i in range(MAX_MESSAGES)]
    [message] = ResponsesBody.model_validate({"input": items}).messages
    assert [call["id"] for call in message["tool_calls"]] == [item["call_id"] for item in items]
    assert items == [{**CALL, "call_id": str(i)} for i in range(MAX_MESSAGES)], "what was sent is as it was"
