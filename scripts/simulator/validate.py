"""The simulator against a real engine in this process: the same requests at the same times, and what each makes of it.

The real one is driven by the real clock, as a server drives it: whoever is due is submitted, then a step. What it
leaves out is the front (HTTP, text), which on few cores competes with a small model for them. Throughput is here all
tokens over the time from the first arrival to the last token: a few hundred requests have no middle to cut out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np

from llmserve.bench.load import random_prompt
from llmserve.request import Request, SamplingParams
from simulator.agreement import Pair, Seen
from simulator.cost import Machine
from simulator.engine import WatchedEngine
from simulator.policy import InFlight, Policy
from simulator.simulate import Run, simulate
from simulator.sweep import capacity
from simulator.workload import Arrivals, Lengths, Poisson, Prefixes, Together, Trace, Workload

LOADS = (0.6, 0.85)
"""Of the simulated capacity: Poisson at these, and then all at once."""
SHORT = Workload(Lengths(60, 0.8, 448), Lengths(50, 0.8, 448), Prefixes(0, 0, 0), Together())
"""Fits a demo-size model; means about 80 and 68."""


def validate(
    engine: WatchedEngine, machine: Machine, requests: int, rounds: int, seed: int, advance: Callable[[int], None]
) -> list[Pair]:
    """`advance` hears of every request that ended in the real engine."""
    config = engine.config
    policy = Policy("engine", "this engine", InFlight(), config.max_num_batched_tokens, config.prefix_caching)
    most = capacity(SHORT, policy, machine, requests, seed)
    loads: list[Arrivals] = [*(Poisson(load * most) for load in LOADS), Together()]
    pairs = []
    for number in range(rounds):
        for arrivals in loads:
            trace = SHORT.at(arrivals).draw(requests, seed + number)
            real = run_real(engine, trace, random.Random(f"validation {seed} {number} {arrivals}"), advance)
            run = simulate(trace, policy, machine, lambda count: None)
            pairs.append(Pair(arrivals, real, seen(run)))
    return pairs


def seen(run: Run) -> Seen:
    return Seen.of(run.trace, np.frombuffer(run.first), np.frombuffer(run.ended))


def run_real(engine: WatchedEngine, trace: Trace, prompts: random.Random, advance: Callable[[int], None]) -> Seen:
    requests = [_request(engine, trace, index, prompts) for index in range(len(trace))]
    first, ended = np.zeros(len(trace)), np.zeros(len(trace))
    due, submitted, left = trace.arrivals.tolist(), 0, len(trace)
    began = time.perf_counter()
    while left:
        now = time.perf_counter() - began
        while submitted < len(trace) and due[submitted] <= now:
            engine.submit(requests[submitted])
            submitted += 1
        if not engine.has_work:
            time.sleep(max(0.0, due[submitted] - now))
            continue
        events, _ = engine.step()
        now = time.perf_counter() - began
        for event in events:
            first[event.request_id] = first[event.request_id] or now
            if event.finish is not None:
                ended[event.request_id] = now
                left -= 1
                advance(1)
    return Seen.of(trace, first, ended)


def _request(engine: WatchedEngine, trace: Trace, index: int, prompts: random.Random) -> Request:
    prompt = random_prompt(prompts, int(trace.prompts[index]), engine.vocab_size)
    return Request(index, prompt, SamplingParams(max_tokens=int(trace.outputs[index]), temperature=0))
