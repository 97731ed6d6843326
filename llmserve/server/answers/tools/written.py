"""What a call's name and arguments are told as, whatever a model has written.

Escapes in JSON and Python can make half of a surrogate pair, which no UTF-8 has, and numbers beyond JSON's.
"""

from __future__ import annotations

import json
from typing import Any


def is_text(name: str) -> bool:
    """Whether it can be told at all."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(arguments: str) -> str:
    """Half of a pair as its escape, which is what JSON has for it."""
    return arguments.encode(errors="backslashreplace").decode()


def as_json(arguments: Any) -> str | None:
    """None where it has no JSON: infinity, a set, what is nested too deeply."""
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        return text if is_text(text) else json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        return None


def no_number(written: str) -> Any:
    """For `parse_constant`: Infinity and NaN are no JSON."""
    raise ValueError(written)


def finite(written: str) -> float:
    """For `parse_float`: 1e999 is JSON, but Python reads it as infinity."""
    if (value := float(written)) in (float("inf"), float("-inf")):
        raise ValueError(written)
    return value
