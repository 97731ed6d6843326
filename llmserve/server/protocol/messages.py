"""OpenAI's messages and documents → what chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.protocol.values import check_count

MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of one message's content
MAX_CALLS = 1024  # of one message
MAX_DOCUMENTS = 1024
MAX_ARGUMENT_CHARS = 2**22
"""Of all calls of tools in a conversation: arguments are JSON, which is read before anybody else is served."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def checked_messages(value: Any) -> Any:
    """OpenAI's messages → what chat templates expect: content is text, arguments of tool calls are objects."""
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list of at least one message.", param="messages")
    check_count(value, MAX_MESSAGES, "messages", "messages")
    check_arguments((arguments for message in value for arguments in _arguments(message)), "messages")
    return [checked_message(message, f"messages.{i}") for i, message in enumerate(value)]


def check_arguments(arguments: Iterable[Any], at: str) -> None:
    """Before any is read. Those that are no texts do not count."""
    size = sum(len(each) for each in arguments if isinstance(each, str))
    if size > MAX_ARGUMENT_CHARS:
        raise RequestError(
            f"{at} has calls with {size} characters of arguments; at most {MAX_ARGUMENT_CHARS} are possible.", param=at
        )


def _arguments(message: Any) -> Iterator[Any]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield function.get("arguments")


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
    message["content"] = text_of(message.get("content", ""), f"{at}.content", ("text",))
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{at}.tool_calls")
    return message


def text_of(content: Any, at: str, kinds: Collection[str]) -> str:
    """A text, or the texts of parts that are of these types."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{at} must be a string or a list of text parts.", param=at)
    check_count(content, MAX_PARTS, "parts", at)
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else part
        if not isinstance(kind, str) or kind not in kinds:
            known = ", ".join(kinds)
            raise RequestError(f"{at}.{i} is {shown(kind)}; the types of parts that are supported: {known}.", param=at)
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
