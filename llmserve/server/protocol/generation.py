"""What the bodies of both generating endpoints have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS
from llmserve.server.protocol.choosing import checked_allowed_token_ids, checked_bad_words, checked_logit_bias
from llmserve.server.protocol.structured import Form, checked_response_format, checked_structured_outputs, the_one
from llmserve.server.protocol.unsupported import ASKS_FOR_NOTHING, WITHOUT_EFFECT, unknown_parameter, what_counts
from llmserve.server.protocol.values import checked_stop_token_ids, checked_stops

MAX_CHOICES = 128
MAX_SALT_CHARS = 256


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None  # of token lengths, against eavesdroppers
    continuous_usage_stats: bool | None = None  # vLLM's: each chunk has its choice's usage so far

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                raise unknown_parameter(f"stream_options.{name}")
        return data


class GenerationBody(BaseModel):
    """What both endpoints have in common. None: the model's default, or OpenAI's."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: str | None = None  # None: the one that is served
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    temperature: FiniteFloat | None = Field(None, ge=0)
    top_p: FiniteFloat | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: Annotated[list[str], BeforeValidator(checked_stops)] = []
    presence_penalty: FiniteFloat | None = Field(None, ge=-2, le=2)
    frequency_penalty: FiniteFloat | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[Any, BeforeValidator(checked_logit_bias)] = ()  # (token id, bias) pairs
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's
    top_k: int | None = Field(None, ge=-1)
    min_p: FiniteFloat | None = Field(None, ge=0, le=1)
    repetition_penalty: FiniteFloat | None = Field(None, gt=0, le=100)
    bad_words: Annotated[list[str], BeforeValidator(checked_bad_words)] = []
    allowed_token_ids: Annotated[list[int] | None, BeforeValidator(checked_allowed_token_ids)] = None
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], BeforeValidator(checked_stop_token_ids)] = []
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=1)  # of the prompt, its last
    return_token_ids: bool | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    priority: int | None = Field(None, ge=-(2**63), lt=2**63)  # less is sooner
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_SALT_CHARS)
    # what form the answer must have: OpenAI's way to say it, and vLLM's
    response_format: Annotated[Any, BeforeValidator(checked_response_format)] = None
    structured_outputs: Annotated[Any, BeforeValidator(checked_structured_outputs)] = None
    # ours
    timeout: FiniteFloat | None = Field(None, gt=0)  # seconds from arrival to the end of the answer

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return what_counts(data, cls.model_fields, WITHOUT_EFFECT, ASKS_FOR_NOTHING)

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only possible with stream: true.", param="stream_options")
        return self

    @model_validator(mode="after")
    def _continuous_usage_is_usage(self) -> GenerationBody:
        options = self.stream_options
        if options is not None and options.continuous_usage_stats and not options.include_usage:
            raise RequestError(
                "stream_options.continuous_usage_stats is only possible with stream_options.include_usage: true.",
                param="stream_options.continuous_usage_stats",
            )
        return self

    @model_validator(mode="after")
    def _one_form(self) -> GenerationBody:
        the_one(self.response_format, self.structured_outputs)
        return self

    @property
    def form(self) -> Form | None:
        """What form the answer must have."""
        return the_one(self.response_format, self.structured_outputs)

    def kept(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """What of a prompt's tokens the model is to read."""
        return prompt if self.truncate_prompt_tokens is None else prompt[-self.truncate_prompt_tokens :]

    @property
    def is_cut(self) -> bool:
        """Whether the model is to read the last tokens of a prompt alone."""
        return self.truncate_prompt_tokens is not None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)
