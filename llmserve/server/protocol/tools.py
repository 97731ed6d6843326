"""`tools` and `tool_choice`."""

from __future__ import annotations

from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown


def checked_tools(value: Any) -> Any:
    """OpenAI's function tools, as they stand: what is in a function is for the model to read."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise RequestError("tools must be a list of tools.", param="tools")
    for i, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"tools.{i} must be an object with a function that has a name.", param="tools")
        if tool.get("type") != "function":
            raise RequestError(
                f"tools.{i}.type is {shown(tool.get('type'))}; only tools of type 'function' are supported.",
                param="tools",
            )
    return value


def checked_tool_choice(value: Any) -> Any:
    if value not in (None, "none", "auto"):
        raise RequestError(
            f"tool_choice is not supported with {shown(value)}; leave it out, or choose 'none' or 'auto'.",
            param="tool_choice",
            code="unsupported_parameter",
        )
    return value
