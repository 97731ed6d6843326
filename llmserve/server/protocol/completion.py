"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS
from llmserve.server.errors import shown
from llmserve.server.protocol.generation import GenerationBody
from llmserve.server.protocol.values import TextsOrIds, checked_prompts


class CompletionBody(GenerationBody):
    prompt: Annotated[list[str | list[int]], BeforeValidator(checked_prompts, json_schema_input_type=TextsOrIds)]
    max_tokens: int | None = Field(None, ge=0)  # 0: of the prompt alone
    best_of: int | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_special_tokens: bool | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _something_is_told(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "max_tokens can only be 0 with echo: true, which then answers with the prompt alone; ask for at least "
                "1 token.",
                param="max_tokens",
            )
        if self.max_tokens == 0 and self.min_tokens:
            raise RequestError(
                f"min_tokens must be between 0 and max_tokens, which is 0, got {shown(self.min_tokens)}.",
                param="min_tokens",
            )
        return self

    @model_validator(mode="after")
    def _best_of_is_n(self) -> CompletionBody:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError(
                f"best_of is only possible where it equals n ({self.n or 1}), got {shown(self.best_of)}.",
                param="best_of",
                code="unsupported_parameter",
            )
        return self
