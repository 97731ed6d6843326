"""Throughput against latency: the same requests at growing rates, by every policy, and what that says at equal latency.

Throughput *at a bound* is the largest along a policy's sweep at which a latency is still within the bound. Between two
neighbouring rates both are taken to change in a straight line. Throughput at equal TPOT is that with the median TPOT;
a policy that never reaches the bound counts with the most that it can do, and one that is never within it with nothing.

Queueing shows in TTFT and not in TPOT, whatever the policy. So static batching at its limit has a TPOT as good as its
half-empty batches are fast; continuous batching pays with its TPOT for computing newcomers' prompts between tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmserve.bench.progress import BenchProgress
from simulator.cost import Machine
from simulator.outcome import Outcome
from simulator.policy import Policy
from simulator.simulate import simulate
from simulator.workload import Poisson, Together, Workload

OVERLOADED = 2
"""Points of a policy that cannot keep up, after which higher rates say nothing new."""


@dataclass(frozen=True, slots=True)
class Point:
    rate: float  # requests a second
    outcome: Outcome


Curves = dict[str, list[Point]]
"""By the policy's name, in ascending order of the rate."""


def capacity(workload: Workload, policy: Policy, machine: Machine, requests: int, seed: int) -> float:
    """Requests a second, when all are there from the beginning."""
    trace = workload.at(Together()).draw(requests, seed)
    outcome = Outcome.of(simulate(trace, policy, machine, lambda count: None))
    return outcome.throughput * requests / outcome.generated


def rates_below(top: float, count: int) -> list[float]:
    """In equal ratios from a sixteenth of `top` up to 1.4 times of it."""
    return list(np.geomspace(top / 16, 1.4 * top, count))


def sweep(
    workload: Workload,
    chosen: Sequence[Policy],
    machine: Machine,
    rates: Sequence[float],
    requests: int,
    seed: int,
    progress: BenchProgress,
) -> Curves:
    """Poisson arrivals; the requests are the same at every rate. Progress is in tokens."""
    return {policy.name: list(_points(workload, policy, machine, rates, requests, seed, progress)) for policy in chosen}


def _points(
    workload: Workload,
    policy: Policy,
    machine: Machine,
    rates: Sequence[float],
    requests: int,
    seed: int,
    progress: BenchProgress,
) -> Iterator[Point]:
    overloaded = 0
    for number, rate in enumerate(rates, start=1):
        progress.begin(f"{policy.label}, {rate:.3g}/s")
        trace = workload.at(Poisson(rate)).draw(requests, seed)
        outcome = Outcome.of(simulate(trace, policy, machine, progress.advance))
        yield Point(rate, outcome)
        overloaded += not outcome.keeps_up
        if overloaded == OVERLOADED:
            progress.advance((len(rates) - number) * outcome.generated)
            break


def throughput_within(points: Sequence[Point], latency: Callable[[Outcome], float], bound: float) -> float:
    """Tokens a second; 0 where no point is within the bound."""
    places = [(latency(point.outcome), point.outcome.throughput) for point in points]
    within = [throughput for late, throughput in places if late <= bound]
    for (late, here), (later, there) in pairwise(places):
        if late <= bound < later:
            within.append(here + (there - here) * (bound - late) / (later - late))
    return max(within, default=0.0)


def median_tpot(outcome: Outcome) -> float:
    return outcome.tpot.p50


def p99_ttft(outcome: Outcome) -> float:
    return outcome.ttft.p99


def at_full_load(points: Sequence[Point]) -> Outcome:
    """Where a policy's throughput is greatest."""
    return max((point.outcome for point in points), key=lambda outcome: outcome.throughput)
