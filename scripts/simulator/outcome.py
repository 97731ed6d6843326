"""From a run's times to figures. What each of them means is said here, once; nothing here simulates or prints.

* throughput: generated tokens a second, of the middle 80 % of all tokens over the time in which they came, so that
  neither the filling of an empty machine nor the emptying of a full one counts;
* TTFT, of a request: from its arrival to its first token, waiting included;
* TPOT, of a request: from its first token to its last, divided by the number of tokens after the first. Waiting is not
  in it, but for a preemption;
* ITL, of a token: the time of the step that brought it, weighted by how many tokens a step brought, first ones aside.
  What a preempted request waits in addition is in its TPOT only;
* KV use and running sequences: averages over time, of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.simulate import Run
from simulator.workload import Floats

CUT = 0.1
"""Of the tokens, at either end, that do not count for the throughput."""


@dataclass(frozen=True, slots=True)
class Spread:
    mean: float
    p50: float
    p90: float
    p99: float

    @staticmethod
    def of(values: Floats, weights: Floats | None = None) -> Spread:
        """`weights`: how often each value counts. NaN where there is none."""
        if not len(values) or (weights is not None and not weights.any()):
            return Spread(np.nan, np.nan, np.nan, np.nan)
        if weights is None:
            return Spread(float(values.mean()), *np.percentile(values, (50, 90, 99)).tolist())
        order = np.argsort(values)
        reached = np.cumsum(weights[order]) / weights.sum()
        at = np.minimum(np.searchsorted(reached, (0.5, 0.9, 0.99)), len(values) - 1)
        return Spread(float(np.average(values, weights=weights)), *values[order][at].tolist())

    def as_json(self) -> dict[str, float | None]:
        return {name: none_if_nan(getattr(self, name)) for name in ("mean", "p50", "p90", "p99")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds, tokens per second, and shares."""

    policy: str
    requests: int
    duration: float  # until the last token
    generated: int
    throughput: float
    offered: float  # tokens asked for per second of the arrivals; inf: all at once
    ttft: Spread
    tpot: Spread
    itl: Spread
    kv_mean: float
    kv_max: float
    running: float
    preemptions: int
    prefix_share: float  # of the prompts' tokens, found in the cache
    steps: int
    wall_seconds: float  # that simulating took
    cpu_seconds: float

    @property
    def keeps_up(self) -> bool:
        """With what was offered, within 10 %, as a short run is not quite steady."""
        return self.throughput >= 0.9 * self.offered

    @staticmethod
    def of(run: Run) -> Outcome:
        steps = run.steps
        seconds, generated = np.frombuffer(steps.seconds), np.frombuffer(steps.generated, np.int32)
        usage, running = np.frombuffer(steps.kv_usage), np.frombuffer(steps.running, np.int32)
        ends = np.frombuffer(steps.ends)
        firsts = np.diff(np.searchsorted(np.sort(np.frombuffer(run.first)), ends, side="right"), prepend=0)
        arrivals, outputs = run.trace.arrivals, run.trace.outputs
        span = float(arrivals[-1] - arrivals[0])
        return Outcome(
            policy=run.policy.name,
            requests=len(run.trace),
            duration=float(ends[-1] - arrivals[0]),
            generated=int(generated.sum()),
            throughput=throughput(ends, generated.astype(float)),
            offered=float(outputs.sum()) / span if span else np.inf,
            ttft=Spread.of(ttft(run)),
            tpot=Spread.of(tpot(run)),
            itl=Spread.of(seconds, (generated - firsts).astype(float)),
            kv_mean=float(np.average(usage, weights=seconds)),
            kv_max=float(usage.max()),
            running=float(np.average(running, weights=seconds)),
            preemptions=run.preemptions,
            prefix_share=run.prefix_hits / run.prefix_queries if run.prefix_queries else 0.0,
            steps=len(ends),
            wall_seconds=run.wall_seconds,
            cpu_seconds=run.cpu_seconds,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "requests": self.requests,
            "duration_s": self.duration,
            "generated_tokens": self.generated,
            "throughput_tokens_per_s": self.throughput,
            "offered_tokens_per_s": self.offered if np.isfinite(self.offered) else None,
            "ttft_s": self.ttft.as_json(),
            "tpot_s": self.tpot.as_json(),
            "itl_s": self.itl.as_json(),
            "kv_mean": self.kv_mean,
            "kv_max": self.kv_max,
            "running_mean": self.running,
            "preemptions": self.preemptions,
            "prefix_share": self.prefix_share,
            "steps": self.steps,
            "wall_s": self.wall_seconds,
            "cpu_s": self.cpu_seconds,
            "cpu_us_per_token": 1e6 * self.cpu_seconds / self.generated,
        }


def ttft(run: Run) -> Floats:
    return np.frombuffer(run.first) - run.trace.arrivals


def tpot(run: Run) -> Floats:
    """Of those with two tokens or more."""
    after = run.trace.outputs - 1
    return ((np.frombuffer(run.ended) - np.frombuffer(run.first))[after > 0]) / after[after > 0]


def throughput(ends: Floats, generated: Floats) -> float:
    """Of the middle of all tokens; a step's tokens came evenly in it, for the purpose of cutting."""
    reached = np.concatenate(([0.0], np.cumsum(generated)))
    # A step begins, at the earliest, when the last one ended; what lies between is waiting for requests.
    times = np.concatenate((ends[:1], ends))
    begin, end = np.interp((CUT * reached[-1], (1 - CUT) * reached[-1]), reached, times)
    return float((1 - 2 * CUT) * reached[-1] / (end - begin)) if end > begin else np.inf


def waiting(run: Run, times: Floats) -> Floats:
    """How many requests had arrived and not got a token, at each of these times."""
    arrived = np.searchsorted(run.trace.arrivals, times, side="right")
    return (arrived - np.searchsorted(np.sort(np.frombuffer(run.first)), times, side="right")).astype(float)


def none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
