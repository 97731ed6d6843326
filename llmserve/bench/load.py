"""What is asked and when: random prompts and Poisson arrivals, a function of the seed alone.

Standard library only. Knows neither engines nor servers.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

FIRST_ORDINARY_ID = 10
"""Vocabularies often begin with their control tokens."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a load: what it holds, and how many seconds after the beginning it is due."""

    prompt: tuple[int, ...]
    output_len: int
    due: float


def random_prompt(random_numbers: random.Random, length: int, vocab_size: int) -> tuple[int, ...]:
    first = FIRST_ORDINARY_ID if vocab_size > 2 * FIRST_ORDINARY_ID else 0
    return tuple(random_numbers.choices(range(first, vocab_size), k=length))


def arrivals(rate: float, count: int, seed: int | str) -> list[float]:
    """A Poisson process: independent, exponentially distributed gaps. The first request is due at 0; `inf`: all are."""
    if math.isinf(rate):
        return [0.0] * count
    gaps = random.Random(f"arrivals {seed}")
    return [0.0, *itertools.accumulate(gaps.expovariate(rate) for _ in range(count - 1))]


def make_load(
    *,
    count: int,
    rate: float,
    input_len: tuple[int, int],
    output_len: tuple[int, int],
    vocab_size: int,
    seed: int | str,
) -> list[Asked]:
    """Lengths are drawn evenly from their ranges, both ends included."""
    # A source of its own for each quantity, so that another rate does not change the prompts.
    prompts, lengths = random.Random(f"prompts {seed}"), random.Random(f"lengths {seed}")
    return [
        Asked(random_prompt(prompts, lengths.randint(*input_len), vocab_size), lengths.randint(*output_len), due)
        for due in arrivals(rate, count, seed)
    ]
