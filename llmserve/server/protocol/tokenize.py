"""The bodies of POST /tokenize and /detokenize, which are vLLM's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from llmserve.errors import RequestError
from llmserve.server.protocol.body import Body
from llmserve.server.protocol.messages import checked_documents, checked_messages
from llmserve.server.protocol.tools import checked_tools
from llmserve.server.protocol.values import token_ids


def _messages(value: Any) -> Any:
    return None if value is None else checked_messages(value)


class TokenizeBody(Body):
    """A text, or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]] | None, BeforeValidator(_messages)] = None
    add_special_tokens: bool | None = None  # None: those of a text, as completions add them
    return_token_strs: bool | None = None
    # of a conversation
    add_generation_prompt: bool | None = None  # None: true
    continue_final_message: Literal[False] | None = None
    tools: Annotated[list[dict[str, Any]] | None, BeforeValidator(checked_tools)] = None
    documents: Annotated[list[dict[str, Any]] | None, BeforeValidator(checked_documents)] = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _either(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("Give either prompt or messages.", param="prompt")
        if self.messages is not None:
            if self.add_special_tokens:
                raise RequestError(
                    "add_special_tokens is only possible with prompt: a conversation has those that its format says.",
                    param="add_special_tokens",
                )
            return self
        for name in ("add_generation_prompt", "tools", "documents", "chat_template_kwargs"):
            if getattr(self, name) is not None:
                raise RequestError(f"{name} is only possible with messages.", param=name)
        return self


def _tokens(value: Any) -> Any:
    return token_ids(value, "tokens")


class DetokenizeBody(Body):
    tokens: Annotated[list[int], BeforeValidator(_tokens)]
