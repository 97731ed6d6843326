"""Figures from times, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from simulator.outcome import Outcome, Spread, throughput, waiting

from .cases import CONTINUOUS, STATIC, cost, machine, mix, run, trace


def test_times_of_requests() -> None:
    """Steps of a second: both begin at 1; tokens of the first come at 1, 2, 3 and 4, of the second at 1 only."""
    outcome = Outcome.of(run(trace((0, 4, 4), (0.5, 4, 1)), CONTINUOUS))
    assert outcome.ttft.mean == (1 + 1.5) / 2
    assert (outcome.tpot.mean, outcome.itl.p99) == (1, 1)  # a single token has no time per token after the first
    assert (outcome.duration, outcome.generated, outcome.steps) == (4, 5, 4)
    assert outcome.offered == 5 / 0.5


def test_tokens_of_long_steps_wait_longer() -> None:
    """Of the steps of 2 + 4 s, 2 + 1 s … only those count for ITL that bring a second or later token."""
    done = run(trace((0, 4, 3), (100, 9, 1)), CONTINUOUS, machine(cost(fixed=2, token=1)))
    assert list(done.steps.seconds) == [6, 3, 3, 11]
    assert Outcome.of(done).itl == Spread(3, 3, 3, 3)


def test_running_and_memory_are_averages_over_time() -> None:
    """Two sequences in a step of 1 + 8 s, then one in a step of 1 + 1 s; each holds two of ten blocks."""
    outcome = Outcome.of(run(trace((0, 4, 2), (0, 4, 1)), CONTINUOUS, machine(cost(token=1), blocks=10)))
    assert outcome.running == pytest.approx((2 * 9 + 1 * 2) / 11)
    assert outcome.kv_mean == pytest.approx((0.2 * 9 + 0.2 * 2) / 11)
    assert outcome.kv_max == pytest.approx(0.2)


def test_weighted_percentiles_are_those_of_repeated_values() -> None:
    values, weights = np.array([5.0, 1.0, 3.0]), np.array([2.0, 5.0, 93.0])
    repeated = np.repeat(values, weights.astype(int))
    spread = Spread.of(values, weights)
    assert spread.mean == pytest.approx(repeated.mean())
    assert (spread.p50, spread.p90, spread.p99) == (3, 3, 5)
    assert Spread.of(np.array([])).as_json() == {"mean": None, "p50": None, "p90": None, "p99": None}


def test_filling_and_emptying_do_not_count_for_the_throughput() -> None:
    """A tenth of the tokens in a slow beginning, a tenth in a slow end, ten a second between."""
    ends = np.array([50.0, *np.arange(51.0, 59.0), 100.0])
    assert throughput(ends, np.full(10, 10.0)) == pytest.approx(10)


def test_who_waits() -> None:
    done = run(trace((0, 4, 3), (0, 4, 1), (0, 4, 2)), STATIC)
    assert waiting(done, np.array([0.0, 0.5, 1.0, 3.9, 4.0])).tolist() == [3, 3, 1, 1, 0]


def test_an_outcome_is_json() -> None:
    outcome = Outcome.of(run(mix(count=50), CONTINUOUS))
    assert json.loads(json.dumps(outcome.as_json(), allow_nan=False))["requests"] == 50
    assert Outcome.of(run(trace((0, 4, 1)), CONTINUOUS)).as_json()["tpot_s"]["p50"] is None
