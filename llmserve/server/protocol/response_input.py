"""The `input` of the responses endpoint → messages as chat has them.

What a model said in one turn are several items there (reasoning, a message, calls) and one message here.
"""

from __future__ import annotations

from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.protocol.messages import MAX_MESSAGES, check_arguments, checked_message, text_of
from llmserve.server.protocol.values import check_count

MEMBERS = {
    "message": {"role", "content", "id", "status", "phase"},
    "function_call": {"call_id", "name", "arguments", "id", "status"},
    "function_call_output": {"call_id", "output", "id", "status"},
    "reasoning": {"content", "summary", "id", "status"},
}
"""What items of each type may have besides it; ids, status and phase say nothing to a model."""


TEXT_PARTS = ("input_text", "output_text", "reasoning_text", "summary_text")


def checked_input(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise RequestError("input must be a string or a list of at least one item.", param="input")
    check_count(value, MAX_MESSAGES, "items", "input")
    check_arguments((item.get("arguments") for item in value if isinstance(item, dict)), "input")
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(value):
        message = checked_message(_message(item, f"input.{i}"), f"input.{i}")
        if messages and _goes_on(messages[-1], message):
            _join(messages[-1], message)
        else:
            messages.append(message)
    return messages


def _message(item: Any, at: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise RequestError(f"{at} must be an object, a message or another item.", param=at)
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in MEMBERS:
        raise RequestError(
            f"{at}.type is {shown(kind)}; the types that are supported are {', '.join(MEMBERS)}.", param=f"{at}.type"
        )
    given = {name: value for name, value in item.items() if name != "type" and value is not None}
    if rest := given.keys() - MEMBERS[kind]:
        raise RequestError(f"{at}.{min(rest)} is not supported; leave it out.", param=f"{at}.{min(rest)}")
    match kind:
        case "message":
            return {"role": given.get("role"), "content": text_of(given.get("content"), f"{at}.content", TEXT_PARTS)}
        case "function_call":
            function = {name: given.get(name) for name in ("name", "arguments")}
            if not all(isinstance(each, str) for each in (given.get("call_id"), *function.values())):
                raise RequestError(f"{at} must have call_id, name and arguments, which are strings.", param=at)
            return {
                "role": "assistant",
                "tool_calls": [{"id": given["call_id"], "type": "function", "function": function}],
            }
        case "function_call_output":
            if not isinstance(given.get("call_id"), str):
                raise RequestError(f"{at}.call_id must be a string.", param=f"{at}.call_id")
            output = text_of(given.get("output"), f"{at}.output", TEXT_PARTS)
            return {"role": "tool", "tool_call_id": given["call_id"], "content": output}
        case _:
            thought = text_of(given.get("content") or given.get("summary") or "", f"{at}.content", TEXT_PARTS)
            return {"role": "assistant", "reasoning_content": thought}


def _goes_on(before: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether both are of one turn: what is said comes after what is thought, and calls after what is said."""
    if not before["role"] == message["role"] == "assistant" or "reasoning_content" in message:
        return False
    return "tool_calls" in message or not (before["content"] or "tool_calls" in before)


def _join(before: dict[str, Any], message: dict[str, Any]) -> None:
    """In place: a turn may have thousands of calls. Both dicts are `checked_message`'s own."""
    before["content"] += message["content"]
    if calls := message.get("tool_calls"):
        before.setdefault("tool_calls", []).extend(calls)
