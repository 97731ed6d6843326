"""OpenAI's messages and documents → what chat templates expect."""

from __future__ import annotations

import json
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.protocol.values import check_count

MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of one message's content
MAX_CALLS = 1024  # of one message
MAX_DOCUMENTS = 1024
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def checked_messages(value: Any) -> Any:
    """OpenAI's messages → what chat templates expect: content is text, arguments of tool calls are objects."""
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list of at least one message.", param="messages")
    check_count(value, MAX_MESSAGES, "messages", "messages")
    return [checked_message(message, f"messages.{i}") for i, message in enumerate(value)]


def checked_message(message: Any, at: str) -> dict[str, Any]:
    """`at` is where it stands in the body."""
    if not isinstance(message, dict):
        raise RequestError(f"{at} must be an object with role and content.", param=at)
    # Answers are sent back as they came, with null for all that they did not have.
    message = {key: value for key, value in message.items() if value is not None and value != []}
    role = message.get("role")
    if role not in ROLES:
        raise RequestError(f"{at}.role must be one of {', '.join(ROLES)}, not {shown(role)}.", param=f"{at}.role")
    rest = message.keys() - {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal"}
    if rest:
        raise RequestError(f"{at}.{min(rest)} is not supported; leave it out.", param=f"{at}.{min(rest)}")
    if "content" not in message and role != "assistant":
        raise RequestError(f"{at}.content is missing.", param=f"{at}.content")
    message["role"] = "system" if role == "developer" else role
    message["content"] = _text(message.get("content", ""), f"{at}.content")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{at}.tool_calls")
    return message


def _text(content: Any, at: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{at} must be a string or a list of text parts.", param=at)
    check_count(content, MAX_PARTS, "parts", at)
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise RequestError(f"{at}.{i} is {shown(kind)}; only parts of type 'text' are supported.", param=at)
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{at}.{i}.text must be a string.", param=at)
    return "\n".join(part["text"] for part in content)


def _tool_calls(calls: Any, at: str) -> list[Any]:
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls
    ):
        raise RequestError(f"{at} must be a list of function calls.", param=at)
    check_count(calls, MAX_CALLS, "calls", at)
    parsed = []
    for call in calls:
        arguments = call["function"].get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                raise RequestError(f"{at} has arguments that are not valid JSON.", param=at) from None
        parsed.append({**call, "function": {**call["function"], "arguments": arguments}})
    return parsed


def checked_documents(value: Any) -> Any:
    if value is not None and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise RequestError("documents must be a list of objects.", param="documents")
    check_count(value or (), MAX_DOCUMENTS, "documents", "documents")
    return value
