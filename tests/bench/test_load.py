"""The load is a function of its seed, and has the rate and the lengths that were asked for."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.bench.load import Asked, arrivals, make_load


def load(seed: int, rate: float = 5.0) -> list[Asked]:
    return make_load(count=50, rate=rate, input_len=(3, 9), output_len=(1, 4), vocab_size=96, seed=seed)


@given(st.floats(0.01, 1e4), st.integers(1, 100), st.integers())
def test_arrivals_are_a_function_of_the_seed(rate: float, count: int, seed: int) -> None:
    times = arrivals(rate, count, seed)
    assert times == arrivals(rate, count, seed)
    assert times == sorted(times)
    assert len(times) == count
    assert times[0] == 0
    assert count == 1 or times != arrivals(rate, count, seed + 1)


def test_gaps_are_exponential() -> None:
    """Of an exponential distribution the mean is the deviation, and half are below ln 2 of it."""
    times = arrivals(8.0, 20_000, 1)
    gaps = [b - a for a, b in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 8, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 8, rel=0.05)
    assert statistics.median(gaps) == pytest.approx(math.log(2) / 8, rel=0.05)


def test_an_infinite_rate_is_all_at_once() -> None:
    assert arrivals(math.inf, 3, 0) == [0, 0, 0]


def test_a_load_is_a_function_of_its_seed_and_within_its_ranges() -> None:
    assert load(1) == load(1)
    assert load(1) != load(2)
    assert {len(asked.prompt) for asked in load(1)} == set(range(3, 10))
    assert {asked.output_len for asked in load(1)} == set(range(1, 5))
    assert all(0 <= token < 96 for asked in load(1) for token in asked.prompt)


def test_another_rate_sends_the_same_requests() -> None:
    assert [(a.prompt, a.output_len) for a in load(1, 5.0)] == [(a.prompt, a.output_len) for a in load(1, math.inf)]
