"""What the engine answers and its clients therefore have to read: numbers counted up, from one that the seed says."""

from __future__ import annotations

from llmserve.tokenizer import Tokenizer

APART = 1_000_003
"""Between the first numbers of two seeds, so that no two streams have a text in common."""


def answer(tokenizer: Tokenizer, seed: int, tokens: int) -> list[int]:
    """The ids of an answer of so many tokens."""
    first = seed * APART
    text = " ".join(str(number) for number in range(first, first + tokens))  # a number is a token or more
    return tokenizer.encode(text, add_special_tokens=False)[:tokens]
