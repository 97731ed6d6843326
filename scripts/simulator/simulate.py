"""The loop: the real scheduler plans a step, the cost model says how long it takes, the clock moves on.

It runs on one core, and what it does itself per token is little beside what the scheduler does: two look-ups.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from llmserve.errors import LlmserveError
from llmserve.request import Finish
from llmserve.scheduler import BlockPool, Sampled, Scheduler
from simulator.cost import Machine, Work
from simulator.policy import Policy, Queue
from simulator.workload import Trace

SOME_TOKEN = Sampled(0)
"""Which one is of no consequence: answers end by their length."""


@dataclass(frozen=True)
class Steps:
    """Of each step, in order. Arrays of plain numbers, as there may be millions."""

    ends: array[float] = field(default_factory=lambda: array("d"))  # on the simulated clock
    seconds: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[int] = field(default_factory=lambda: array("i"))  # through the matrices
    generated: array[int] = field(default_factory=lambda: array("i"))
    running: array[int] = field(default_factory=lambda: array("i"))
    kv_usage: array[float] = field(default_factory=lambda: array("d"))  # 0 … 1, while the step ran


@dataclass(frozen=True)
class Run:
    """What came of a trace. Times in simulated seconds, by request."""

    trace: Trace
    policy: Policy
    first: array[float]  # when the first token came
    ended: array[float]  # and the last
    steps: Steps
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    wall_seconds: float  # that simulating took
    cpu_seconds: float  # of these, on a core


def simulate(trace: Trace, policy: Policy, machine: Machine, advance: Callable[[int], None]) -> Run:
    """`advance` hears how many tokens were generated whenever some were."""
    scheduler = Scheduler(
        BlockPool(machine.num_blocks, machine.block_size, policy.prefix_caching),
        max_num_seqs=machine.max_num_seqs,
        max_num_batched_tokens=policy.budget,
        max_model_len=machine.max_model_len,
        max_prompt_logits=0,
    )
    pool, queue, steps = scheduler.pool, Queue(trace), Steps()
    first, ended = array("d", bytes(8 * len(trace))), array("d", bytes(8 * len(trace)))
    silent: set[int] = set()  # those who have not got a token yet
    sampled = [[SOME_TOKEN] * count for count in range(machine.max_num_seqs + 1)]
    admit, max_num_seqs = policy.admission.admit, machine.max_num_seqs
    seconds_of, length = machine.cost.seconds, Finish.LENGTH
    clock, began, began_cpu = 0.0, time.perf_counter(), time.process_time()
    while True:
        silent.update(admit(queue, scheduler, clock, max_num_seqs))
        plan = scheduler.schedule()
        if plan is None:
            if queue.empty:
                break
            clock = queue.next_arrival
            continue
        work = Work.of(plan)
        usage, running = pool.usage, scheduler.num_running
        events = scheduler.update(plan, sampled[work.sequences])
        seconds = seconds_of(work)
        clock += seconds
        for event in events:
            index = event.request_id
            if index in silent:
                silent.remove(index)
                first[index] = clock
            if event.finish is not None:
                if event.finish is not length:
                    raise LlmserveError(f"request {index} ended by {event.finish.value}: {event.error}")
                ended[index] = clock
        steps.ends.append(clock)
        steps.seconds.append(seconds)
        steps.tokens.append(work.tokens)
        steps.generated.append(work.sequences)
        steps.running.append(running)
        steps.kv_usage.append(usage)
        advance(work.sequences)
    counters = scheduler.counters
    return Run(
        trace=trace,
        policy=policy,
        first=first,
        ended=ended,
        steps=steps,
        preemptions=counters.preemptions,
        prefix_queries=counters.prefix_queries,
        prefix_hits=counters.prefix_hits,
        wall_seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - began_cpu,
    )
