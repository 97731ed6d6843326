"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS
from llmserve.server.protocol.generation import GenerationBody
from llmserve.server.protocol.messages import checked_documents, checked_messages
from llmserve.server.protocol.tools import ToolChoice, ToolUse, checked_tool_choice, checked_tools, tool_use

MAX_EFFORT_CHARS = 100


class ChatBody(GenerationBody):
    messages: Annotated[list[dict[str, Any]], BeforeValidator(checked_messages)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: Annotated[list[dict[str, Any]] | None, BeforeValidator(checked_tools)] = None
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(checked_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = Field(None, max_length=MAX_EFFORT_CHARS)
    # vLLM's
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    documents: Annotated[list[dict[str, Any]] | None, BeforeValidator(checked_documents)] = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs is only possible with logprobs: true.", param="top_logprobs")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise RequestError(
                f"max_tokens ({both[0]}) and max_completion_tokens ({both[1]}) are two names of one limit; give one.",
                param="max_completion_tokens",
            )
        return self

    @model_validator(mode="after")
    def _tools_are_there(self) -> ChatBody:
        tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
        return self

    @property
    def tool_use(self) -> ToolUse | None:
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
