"""Small traces and machines with round numbers, so that what comes out can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from simulator.cost import CostModel, Machine
from simulator.policy import BatchByBatch, InFlight, Policy
from simulator.simulate import Run, simulate
from simulator.workload import Lengths, Poisson, Prefixes, Trace, Workload

STATIC = Policy("static", "static", BatchByBatch(), budget=1000)
CONTINUOUS = Policy("continuous", "continuous", InFlight(), budget=1000)
CHUNKED = Policy("chunked", "chunked", InFlight(), budget=12)
CACHED = Policy("cached", "cached", InFlight(), budget=12, prefix_caching=True)
ALL = (STATIC, CONTINUOUS, CHUNKED, CACHED)


def cost(**changed: float) -> CostModel:
    """Every step takes a second, whatever is in it, unless more is said."""
    free = {"fixed": 1.0, "token": 0.0, "knee": 0.0, "pair": 0.0, "context": 0.0, "sequence": 0.0}
    return CostModel(**free | changed)


def machine(model: CostModel | None = None, seqs: int = 2, blocks: int = 1000) -> Machine:
    return Machine(
        name="by hand", cost=model or cost(), num_blocks=blocks, block_size=4, max_num_seqs=seqs, max_model_len=400
    )


def trace(*requests: tuple[float, int, int], prefix: int = 0) -> Trace:
    """(arrival, tokens of the prompt, new tokens); all prompts begin with the same `prefix` tokens."""
    arrivals, prompts, outputs = zip(*requests, strict=True)
    shared = np.full(len(requests), 0 if prefix else -1)
    return Trace(np.array(arrivals, dtype=float), np.array(prompts), np.array(outputs), shared, prefix)


def run(requests: Trace, policy: Policy, on: Machine | None = None) -> Run:
    return simulate(requests, policy, on or machine(), lambda count: None)


def times(values: Sequence[float]) -> list[float]:
    return [round(value, 9) for value in values]


def mix(count: int = 300, rate: float = 0.5, seed: int = 1) -> Trace:
    workload = Workload(Lengths(12, 1.0, 150), Lengths(10, 1.0, 150), Prefixes(3, 9, 1.0), Poisson(rate))
    return workload.draw(count, seed)
