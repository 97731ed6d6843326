"""The body of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS
from llmserve.server.errors import shown
from llmserve.server.protocol.generation import MAX_SALT_CHARS, GenerationBody
from llmserve.server.protocol.response_input import checked_input
from llmserve.server.protocol.structured import Form, checked_response_format
from llmserve.server.protocol.tools import (
    MAX_TOOLS,
    ToolChoice,
    ToolUse,
    checked_flat_tool_choice,
    checked_tools,
    tool_use,
)
from llmserve.server.protocol.unsupported import what_counts
from llmserve.server.protocol.values import check_count

WITHOUT_EFFECT = frozenset(
    {"store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
"""They tell OpenAI what to keep and how fast to be; nothing is kept here."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "stream_options": ({}, {"include_obfuscation": False}),
    "truncation": ("disabled",),
}
"""Known and unsupported, with the values besides null that make no difference."""

LOGPROBS = "message.output_text.logprobs"
"""What there is to be included in an answer."""

MAX_METADATA = 16  # as OpenAI has it
MAX_INCLUDED = 16
FUNCTION = ("name", "description", "parameters", "strict")


def _nested_tools(value: Any) -> Any:
    """Tools as chat has them."""
    if not isinstance(value, list):
        return checked_tools(value)
    check_count(value, MAX_TOOLS, "tools", "tools")
    nested = []
    for i, tool in enumerate(value):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else tool
            raise RequestError(
                f"tools.{i}.type is {shown(kind)}; only tools of type 'function' are supported.", param="tools"
            )
        if rest := {name for name, given in tool.items() if given is not None} - {"type", *FUNCTION}:
            raise RequestError(f"tools.{i}.{min(rest)} is not supported; leave it out.", param="tools")
        function = {name: tool[name] for name in FUNCTION if tool.get(name) is not None}
        nested.append({"type": "function", "function": function})
    return checked_tools(nested)


def _checked_metadata(value: Any) -> Any:
    """The first that is no string is named; pydantic would list millions."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RequestError(f"metadata must be an object, not {shown(value)}.", param="metadata")
    check_count(value, MAX_METADATA, "pairs", "metadata")
    for name, given in value.items():
        if not isinstance(given, str):
            raise RequestError(f"metadata.{name:.100} must be a string, not {shown(given)}.", param=f"metadata.{name}")
    return value


def _checked_text(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"text must be an object, not {shown(value)}.", param="text")
    for name, given in (value or {}).items():
        if name == "format":
            _form(given)
        elif given is not None and (name, given) != ("verbosity", "medium"):
            raise RequestError(
                f"text.{name:.100} is not supported, got {shown(given)}; leave it out.",
                param=f"text.{name}",
                code="unsupported_parameter",
            )
    return value


def _form(value: Any) -> Form | None:
    """`text.format`: chat's response_format, but that a schema's name, and so on, stand beside its type."""
    if isinstance(value, dict) and value.get("type") == "json_schema":
        value = {"type": "json_schema", "json_schema": {name: value[name] for name in value if name != "type"}}
    try:
        form = checked_response_format(value)
    except RequestError as e:
        raise RequestError(_renamed(str(e)), param=_renamed(e.param or ""), code=e.code) from None
    return form and Form(form.grammar, "text.format")


def _renamed(text: str) -> str:
    return text.replace("response_format.json_schema", "text.format").replace("response_format", "text.format")


def _checked_include(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, list):
        raise RequestError(f"include must be a list of strings, not {shown(value)}.", param="include")
    check_count(value, MAX_INCLUDED, "strings", "include")
    for i, each in enumerate(value):
        if each != LOGPROBS:
            raise RequestError(
                f"include.{i} is {shown(each)}; only {LOGPROBS!r} is supported.",
                param="include",
                code="unsupported_parameter",
            )
    return value


class Reasoning(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    effort: str | None = Field(None, max_length=100)
    summary: None = None  # nobody here makes one: the reasoning itself is told
    generate_summary: None = None


class ResponsesBody(BaseModel):
    """None: the model's default, or OpenAI's."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: str | None = None  # None: the one that is served
    input: Annotated[list[dict[str, Any]], BeforeValidator(checked_input)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: FiniteFloat | None = Field(None, ge=0)
    top_p: FiniteFloat | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]] | None, BeforeValidator(_nested_tools)] = None
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(checked_flat_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    text: Annotated[dict[str, Any] | None, BeforeValidator(_checked_text)] = None
    reasoning: Reasoning | None = None
    include: Annotated[list[str] | None, BeforeValidator(_checked_include)] = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    metadata: Annotated[dict[str, str] | None, BeforeValidator(_checked_metadata)] = (
        None  # of this and the next nothing is made; the answer has them again
    )
    user: str | None = None
    # vLLM's
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = None
    priority: int | None = Field(None, ge=-(2**63), lt=2**63)
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_SALT_CHARS)
    chat_template_kwargs: dict[str, Any] | None = None
    # ours
    timeout: FiniteFloat | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("previous_response_id") is not None:
            raise RequestError(
                "previous_response_id is not supported, because no response is kept; send the whole conversation as "
                "input.",
                param="previous_response_id",
                code="unsupported_parameter",
            )
        return what_counts(data, cls.model_fields, WITHOUT_EFFECT | {"previous_response_id"}, ASKS_FOR_NOTHING)

    @model_validator(mode="after")
    def _tools_are_there(self) -> ResponsesBody:
        tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
        return self

    @model_validator(mode="after")
    def _top_logprobs_are_asked_for(self) -> ResponsesBody:
        if self.top_logprobs and not self.wants_logprobs:
            raise RequestError(f"top_logprobs is only possible with include: [{LOGPROBS!r}].", param="top_logprobs")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.include)

    @property
    def tool_use(self) -> ToolUse | None:
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def form(self) -> Form | None:
        """What form the answer must have."""
        return _form(self.text.get("format")) if self.text else None

    @property
    def messages(self) -> list[dict[str, Any]]:
        first = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return [*first, *self.input]

    @property
    def generation(self) -> GenerationBody:
        """What it says of the choice of tokens."""
        names = ("model", "temperature", "top_p", "top_k", "seed", "priority", "cache_salt", "timeout")
        return GenerationBody(**{name: getattr(self, name) for name in names})
