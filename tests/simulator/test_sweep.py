"""Throughput at equal latency, by hand; and sweeps that end where higher rates say nothing new."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator.outcome import Outcome, Spread
from simulator.report import comparisons
from simulator.sweep import Point, capacity, median_tpot, rates_below, sweep, throughput_within
from simulator.workload import Lengths, Poisson, Prefixes, Workload

from llmserve.bench.progress import BenchProgress

from .cases import ALL, CONTINUOUS, STATIC, cost, machine, run, trace

SOME = Outcome.of(run(trace((0, 4, 4)), CONTINUOUS))


def point(rate: float, throughput: float, tpot: float, ttft: float = 1.0) -> Point:
    spreads = {"tpot": Spread(tpot, tpot, tpot, tpot), "ttft": Spread(ttft, ttft, ttft, ttft)}
    return Point(rate, replace(SOME, throughput=throughput, offered=100 * rate, **spreads))


CURVE = [point(1, 100, 0.010), point(2, 200, 0.020), point(3, 260, 0.050), point(4, 250, 0.060)]


@pytest.mark.parametrize(
    "bound, expected", [(0.005, 0), (0.010, 100), (0.015, 150), (0.020, 200), (0.035, 230), (0.050, 260), (1, 260)]
)
def test_the_most_within_a_bound(bound: float, expected: float) -> None:
    assert throughput_within(CURVE, median_tpot, bound) == pytest.approx(expected)


def test_equal_tpot_is_static_batchings_own_at_its_full_load() -> None:
    static = [point(1, 90, 0.012), point(2, 125, 0.030, ttft=9), point(3, 120, 0.040, ttft=99)]
    full, own, given, ttft = comparisons({"static": static, "continuous": CURVE}, [0.012], ttft_bound=5)
    assert full.throughput == {"static": 125, "continuous": 260}
    assert own.equal.startswith("median TPOT of 30.0 ms")
    assert own.throughput == {"static": 125, "continuous": pytest.approx(220)}
    assert own.ratio("continuous") == pytest.approx(220 / 125)
    assert given.throughput == {"static": 90, "continuous": pytest.approx(120)}
    assert ttft.throughput == {"static": pytest.approx(90 + 35 * 4 / 8), "continuous": 260}


def test_without_static_batching_nothing_is_compared_with_it() -> None:
    found = list(comparisons({"continuous": CURVE}, [], ttft_bound=5))
    assert [comparison.ratio("continuous") for comparison in found] == [None, None]


def test_a_sweep_ends_where_a_policy_cannot_keep_up() -> None:
    workload = Workload(Lengths(12, 0.5, 60), Lengths(20, 1.0, 150), Prefixes(0, 0, 0), Poisson(1))
    on = machine(cost(fixed=0.01, token=0.001), seqs=8)
    most = capacity(workload, CONTINUOUS, on, 150, seed=0)
    rates = rates_below(most, 6)
    assert rates[0] == pytest.approx(most / 16)
    assert rates[-1] == pytest.approx(1.4 * most)
    with BenchProgress(1) as progress:
        curves = sweep(workload, ALL, on, [*rates, 2 * most, 3 * most, 4 * most], 150, 0, progress)
    for points in curves.values():
        assert points[0].outcome.keeps_up
        assert [p.outcome.keeps_up for p in points].count(False) == 2
        assert not points[-1].outcome.keeps_up
    full = {name: max(p.outcome.throughput for p in points) for name, points in curves.items()}
    assert full["continuous"] > full[STATIC.name]
