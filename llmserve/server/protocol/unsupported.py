"""Parameters that clients may send and that change nothing here, and those that would and cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown

WITHOUT_EFFECT = frozenset(
    {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
"""They tell OpenAI who asks and what to keep; there is no such thing here."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's
    "add_generation_prompt": (True,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "include_reasoning": (True,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "use_beam_search": (False,),
}
"""Known and unsupported, with the values besides null that make no difference."""


def unknown_parameter(name: str) -> RequestError:
    """Raised for the first one; pydantic would list millions."""
    return RequestError(
        f"{name[:100]} is not a parameter of this endpoint; leave it out.", param=name, code="unknown_parameter"
    )


def what_counts(
    data: dict[str, Any],
    used: Collection[str],
    without_effect: Collection[str],
    asks_for_nothing: Mapping[str, tuple[Any, ...]],
) -> dict[str, Any]:
    """A body's parameters that are used. RequestError for the first that is unknown, or asks for what there is not."""
    kept = {}
    for name, value in data.items():
        if name in used:
            kept[name] = value
        elif name in asks_for_nothing:
            if value is not None and value not in asks_for_nothing[name]:
                raise RequestError(
                    f"{name} is not supported, got {shown(value)}; leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )
        elif name not in without_effect:
            raise unknown_parameter(name)
    return kept
