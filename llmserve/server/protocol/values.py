"""Values that more than one body has: stop strings, token ids, prompts."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown

MAX_STOPS = 16
MAX_PROMPTS = 1024
MAX_STOP_CHARS = 1000
MAX_IDS = 2**20
"""Of one list, and of all prompts of a call: more than any context holds, and few enough to look at each without
holding up other requests."""


def check_count(values: Sized, most: int, kind: str, at: str) -> None:
    """Before each is looked at, which would hold up other requests. `kind`: what they are, in the plural."""
    if len(values) > most:
        raise RequestError(f"{at} has {len(values)} {kind}; at most {most} are possible.", param=at)


def checked_stops(value: Any) -> Any:
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


def checked_stop_token_ids(value: Any) -> Any:
    return token_ids([] if value is None else value, "stop_token_ids")


TextsOrIds = str | list[str] | list[int] | list[list[int]] | list[str | list[int]]
"""What prompts may come as."""


def checked_prompts(value: Any) -> Any:
    return texts_or_ids(value, "prompt")


def texts_or_ids(value: Any, param: str) -> list[str | list[int]]:
    """String, strings, token ids or lists of token ids → a list of strings and token id lists."""
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    given = value if isinstance(value, list) else [value]
    if not given:
        raise RequestError(f"{param} is an empty list; give at least one {param}.", param=param)
    if len(given) > MAX_PROMPTS:
        raise RequestError(f"{param} has {len(given)} {param}s; at most {MAX_PROMPTS} are possible.", param=param)
    ids = sum(len(each) for each in given if isinstance(each, list))
    if ids > MAX_IDS:
        raise RequestError(f"{param} has {ids} token ids in all; at most {MAX_IDS} are possible.", param=param)
    for each in given:
        if not isinstance(each, str | list):
            raise RequestError(
                f"{param} must be a string, a list of strings, a list of token ids or a list of those, "
                f"not {shown(each)}.",
                param=param,
            )
        if isinstance(each, list):
            token_ids(each, param)
    return given
