"""The bodies of OpenAI's two generating endpoints, checked: what is here is supported.

A parameter is one of four things: used; known to be without effect here and accepted; known, unsupported and
accepted only at the value that asks for nothing; or refused. Nothing is ignored that a client might have meant.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from llmserve.errors import RequestError
from llmserve.request import MAX_LOGPROBS
from llmserve.server.errors import shown

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_PROMPTS = 1024
MAX_STOP_CHARS = 1000
MAX_SALT_CHARS = 256
MAX_IDS = 2**20
"""Of one list: more than any context holds, and few enough to look at each without holding up other requests."""

WITHOUT_EFFECT = frozenset(
    {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
"""They tell OpenAI who asks and what to keep; there is no such thing here."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "structured_outputs": ({},),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
"""Known and unsupported, with the values besides null that make no difference."""


def _stops(value: Any) -> Any:
    if value is None or isinstance(value, str):
        value = [] if value is None else [value]
    if not isinstance(value, list) or not all(isinstance(stop, str) for stop in value):
        raise RequestError("stop must be a string or a list of strings.", param="stop")
    if len(value) > MAX_STOPS:
        raise RequestError(f"stop has {len(value)} strings; at most {MAX_STOPS} are possible.", param="stop")
    longest = max(map(len, value), default=0)
    if longest > MAX_STOP_CHARS:
        raise RequestError(
            f"stop has a string of {longest} characters; at most {MAX_STOP_CHARS} are possible.", param="stop"
        )
    if "" in value:
        raise RequestError(
            "stop has an empty string, which would end every answer at once; leave it out.", param="stop"
        )
    return value


def token_ids(value: Any, param: str) -> list[int]:
    """The first value that is not a token id is refused; range is for whoever knows the vocabulary."""
    if not isinstance(value, list):
        raise RequestError(f"{param} must be a list of token ids.", param=param)
    if len(value) > MAX_IDS:
        raise RequestError(f"{param} has {len(value)} token ids; at most {MAX_IDS} are possible.", param=param)
    for id in value:
        if type(id) is not int:
            raise RequestError(f"{param} must hold token ids, which are whole numbers, not {shown(id)}.", param=param)
    return value


def _stop_token_ids(value: Any) -> Any:
    return token_ids([] if value is None else value, "stop_token_ids")


def _prompts(value: Any) -> Any:
    """String, strings, token ids or lists of token ids → a list of strings and token id lists."""
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    prompts = value if isinstance(value, list) else [value]
    if not prompts:
        raise RequestError("prompt is an empty list; give at least one prompt.", param="prompt")
    if len(prompts) > MAX_PROMPTS:
        raise RequestError(f"prompt has {len(prompts)} prompts; at most {MAX_PROMPTS} are possible.", param="prompt")
    for prompt in prompts:
        if not isinstance(prompt, str | list):
            raise RequestError(
                f"prompt must be a string, a list of strings, a list of token ids or a list of those, "
                f"not {shown(prompt)}.",
                param="prompt",
            )
        if isinstance(prompt, list):
            token_ids(prompt, "prompt")
    return prompts


def unknown_parameter(name: str) -> RequestError:
    """Raised for the first one; pydantic would list millions."""
    return RequestError(
        f"{name[:100]} is not a parameter of this endpoint; leave it out.", param=name, code="unknown_parameter"
    )


ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def _messages(value: Any) -> Any:
    """OpenAI's messages → what chat templates expect: content is text, arguments of tool calls are objects."""
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list of at least one message.", param="messages")
    return [_message(message, f"messages.{i}") for i, message in enumerate(value)]


def _message(message: Any, at: str) -> dict[str, Any]:
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


def _tools(value: Any) -> Any:
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


def _tool_choice(value: Any) -> Any:
    if value not in (None, "none", "auto"):
        raise RequestError(
            f"tool_choice is not supported with {shown(value)}; leave it out, or choose 'none' or 'auto'.",
            param="tool_choice",
            code="unsupported_parameter",
        )
    return value


def _documents(value: Any) -> Any:
    if value is not None and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise RequestError("documents must be a list of objects.", param="documents")
    return value


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None  # of token lengths, against eavesdroppers
    continuous_usage_stats: Literal[False] | None = None

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
    stop: Annotated[list[str], BeforeValidator(_stops)] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's
    top_k: int | None = Field(None, ge=-1)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], BeforeValidator(_stop_token_ids)] = []
    return_token_ids: bool | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    priority: int | None = Field(None, ge=-(2**63), lt=2**63)  # less is sooner
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_SALT_CHARS)
    # ours
    timeout: FiniteFloat | None = Field(None, gt=0)  # seconds from arrival to the end of the answer

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in WITHOUT_EFFECT:
                continue
            elif name in ASKS_FOR_NOTHING:
                if value is not None and value not in ASKS_FOR_NOTHING[name]:
                    raise RequestError(
                        f"{name} is not supported, got {shown(value)}; leave it out.",
                        param=name,
                        code="unsupported_parameter",
                    )
            else:
                raise unknown_parameter(name)
        return kept

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only possible with stream: true.", param="stream_options")
        return self

    @model_validator(mode="after")
    def _prompt_logprobs_come_whole(self) -> GenerationBody:
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError(
                "prompt_logprobs is not possible with stream: true; leave one of them out.", param="prompt_logprobs"
            )
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(GenerationBody):
    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    best_of: int | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_special_tokens: bool | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _echo_comes_whole(self) -> CompletionBody:
        if self.echo and self.stream:
            raise RequestError("echo is not possible with stream: true; leave one of them out.", param="echo")
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


class ChatBody(GenerationBody):
    messages: Annotated[list[dict[str, Any]], BeforeValidator(_messages)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: Annotated[list[dict[str, Any]] | None, BeforeValidator(_tools)] = None
    tool_choice: Annotated[str | None, BeforeValidator(_tool_choice)] = None
    # vLLM's
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]] | None, BeforeValidator(_documents)] = None

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
