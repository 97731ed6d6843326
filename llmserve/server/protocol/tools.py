"""`tools`, `tool_choice` and `parallel_tool_calls`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.protocol.values import check_count

MAX_TOOLS = 1024
MAX_NAME_CHARS = 256
NAME = re.compile(rf'[^\s"\\\x00-\x1f\x7f]{{1,{MAX_NAME_CHARS}}}')
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class NamedTool:
    """The `tool_choice` of a tool by its name."""

    name: str


ToolChoice = str | NamedTool


@dataclass(frozen=True)
class ToolUse:
    """What tools are to a request: `tools`, as OpenAI has them, are what the model is told of."""

    tools: Sequence[Mapping[str, Any]]
    required: Sequence[Mapping[str, Any]]  # functions of which one has to be called; none: the model decides
    one_call: bool  # at most

    @property
    def functions(self) -> list[Mapping[str, Any]]:
        return [tool["function"] for tool in self.tools]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(function["name"] for function in self.functions)

    @property
    def is_strict(self) -> bool:
        """Whether a tool's arguments have to be as its schema says."""
        return any(function.get("strict") for function in self.functions)


def tool_use(
    tools: Sequence[Mapping[str, Any]] | None, choice: ToolChoice | None, parallel: bool | None
) -> ToolUse | None:
    """None where the model is not to be told of any. Of a tool that is chosen by its name there is one call."""
    if choice == "required" or isinstance(choice, NamedTool):
        functions = [tool["function"] for tool in tools or ()]
        if isinstance(choice, NamedTool):
            functions = [function for function in functions if function["name"] == choice.name]
        if not functions:
            which = f"the tool {shown(choice.name)}" if isinstance(choice, NamedTool) else "a call"
            lack = "does not have it; give it there" if tools else "is empty; give tools"
            raise RequestError(f"tool_choice wants {which}, and tools {lack}.", param="tool_choice")
        return ToolUse(tools or (), functions, parallel is False or isinstance(choice, NamedTool))
    return ToolUse(tools, (), parallel is False) if tools and choice != "none" else None


def checked_tools(value: Any) -> Any:
    """OpenAI's function tools, as they stand: what is in a function is for the model to read."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise RequestError("tools must be a list of tools.", param="tools")
    check_count(value, MAX_TOOLS, "tools", "tools")
    for i, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"tools.{i} must be an object with a function that has a name.", param="tools")
        if tool.get("type") != "function":
            raise RequestError(
                f"tools.{i}.type is {shown(tool.get('type'))}; only tools of type 'function' are supported.",
                param="tools",
            )
        check_function(function, f"tools.{i}.function")
    return value


def check_function(function: Mapping[str, Any], at: str) -> None:
    """Its name can stand in quotes or on a line of its own, as models write it."""
    if NAME.fullmatch(function["name"]) is None:
        raise RequestError(
            f"{at}.name must have 1 to {MAX_NAME_CHARS} characters without white space, quotes, backslashes and "
            f"control characters, not {shown(function['name'])}.",
            param="tools",
        )
    for name, kinds, told in (("parameters", dict, "an object, a JSON schema"), ("strict", bool, "true or false")):
        given = function.get(name)
        if given is not None and not isinstance(given, kinds):
            raise RequestError(f"{at}.{name} must be {told}, not {shown(given)}.", param="tools")


def checked_tool_choice(value: Any) -> Any:
    """One of CHOICES, or `{"type": "function", "function": {"name": …}}` → ToolChoice."""
    if value is None or (isinstance(value, str) and value in CHOICES):
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    return _named(function, value)


def checked_flat_tool_choice(value: Any) -> Any:
    """Likewise, as the responses endpoint has it: `{"type": "function", "name": …}`."""
    if value is None or (isinstance(value, str) and value in CHOICES):
        return value
    return _named(value if isinstance(value, dict) and value.get("type") == "function" else None, value)


def _named(function: Any, value: Any) -> NamedTool:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(
            f"tool_choice is not supported with {shown(value)}; choose 'none', 'auto', 'required' or a function by its "
            "name.",
            param="tool_choice",
            code="unsupported_parameter",
        )
    return NamedTool(function["name"])
