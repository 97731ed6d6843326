"""Parameters that name tokens and texts to be favoured, or kept out of an answer."""

from __future__ import annotations

from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown
from llmserve.server.protocol.values import token_ids

MAX_BIASES = 10_000
MAX_BAD_WORDS = 256
MAX_BAD_WORD_CHARS = 200


def checked_logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's map of token ids, as text, to numbers from -100 to 100; range is for whoever knows the vocabulary."""
    at = "logit_bias"
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise RequestError(f"{at} must be an object of token ids and numbers, not {shown(value)}.", param=at)
    if len(value) > MAX_BIASES:
        raise RequestError(f"{at} has {len(value)} tokens; at most {MAX_BIASES} are possible.", param=at)
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10):
            raise RequestError(f"{at} has {shown(key)} among its keys, which are token ids.", param=at)
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise RequestError(f"{at}.{key} must be a number from -100 to 100, not {shown(bias)}.", param=at)
        biases[int(key)] = float(bias)
    return tuple(biases.items())


def checked_allowed_token_ids(value: Any) -> list[int] | None:
    if value is None:
        return None
    if not token_ids(value, "allowed_token_ids"):
        raise RequestError(
            "allowed_token_ids is an empty list, which allows no answer; leave it out.", param="allowed_token_ids"
        )
    return value


def checked_bad_words(value: Any) -> list[str]:
    at = "bad_words"
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RequestError(f"{at} must be a list of strings.", param=at)
    if len(value) > MAX_BAD_WORDS:
        raise RequestError(f"{at} has {len(value)} strings; at most {MAX_BAD_WORDS} are possible.", param=at)
    for word in value:
        if not word.strip() or len(word) > MAX_BAD_WORD_CHARS:
            raise RequestError(
                f"{at} has {shown(word)}; each must have 1 to {MAX_BAD_WORD_CHARS} characters that are not all spaces.",
                param=at,
            )
    return value
