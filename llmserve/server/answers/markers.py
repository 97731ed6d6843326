"""Markers in text that arrives in pieces."""

from __future__ import annotations


def held_back(text: str, marker: str) -> int:
    """How many last characters of `text`, which does not contain it, may be the beginning of `marker`.

    White space before it counts, because it belongs to the marker where one comes.
    """
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:size]):
            break
    else:
        size = 0
    return len(text) - len(text[: len(text) - size].rstrip())
