"""Four ways to batch, told apart by what the real scheduler is given and when. Its own decisions are its own.

They share a trace, a machine and `max_num_seqs`. Static batching is treated kindly: its tokens stream as they come, it
has paged memory, it computes no padding for answers that have ended, and it waits for no batch to fill up. What makes
it static is only that a place is not used again before the whole batch has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmserve.scheduler import Scheduler
from simulator.workload import Trace


class Queue:
    """The requests of a trace that have not been given to the scheduler yet, in order."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._due: list[float] = trace.arrivals.tolist()
        self._next = 0

    @property
    def empty(self) -> bool:
        return self._next == len(self._due)

    @property
    def next_arrival(self) -> float:
        return self._due[self._next]

    @property
    def next_prompt(self) -> int:
        """Its length."""
        return int(self._trace.prompts[self._next])

    def is_due(self, clock: float) -> bool:
        return self._next < len(self._due) and self._due[self._next] <= clock

    def give(self, scheduler: Scheduler) -> int:
        """The next one → which."""
        scheduler.add(self._trace.request(self._next))
        self._next += 1
        return self._next - 1


class Admission(Protocol):
    def admit(self, queue: Queue, scheduler: Scheduler, clock: float, max_num_seqs: int) -> list[int]:
        """Give the scheduler what it may have now → which."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """Whoever has arrived. A step never admits more than `max_num_seqs`, first come first served, so that the rest may
    as well wait here, where waiting costs no memory."""

    def admit(self, queue: Queue, scheduler: Scheduler, clock: float, max_num_seqs: int) -> list[int]:
        given = []
        while queue.is_due(clock) and scheduler.num_waiting < max_num_seqs:
            given.append(queue.give(scheduler))
        return given


@dataclass(frozen=True, slots=True)
class BatchByBatch:
    """A batch of those who have arrived by the time the last one has ended, as far as memory holds their prompts and a
    block more for each: with less, the scheduler would let the rest in as others end, which is not static at all."""

    def admit(self, queue: Queue, scheduler: Scheduler, clock: float, max_num_seqs: int) -> list[int]:
        given: list[int] = []
        if scheduler.has_work:
            return given
        pool = scheduler.pool
        free = pool.num_blocks
        while queue.is_due(clock) and len(given) < max_num_seqs:
            free -= pool.blocks_for(queue.next_prompt) + 1
            if given and free < 0:
                break
            given.append(queue.give(scheduler))
        return given


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    label: str
    admission: Admission
    budget: int  # tokens in a step
    prefix_caching: bool = False


def policies(max_num_seqs: int, longest_prompt: int, chunk: int) -> tuple[Policy, ...]:
    """Static batching computes all prompts of a batch in one step. Continuous batching has room in a step for the
    longest prompt beside a token of everyone else, so that a prompt that comes alone is whole; of several that come
    together the last may be cut. Chunked prefill has room for `chunk` tokens."""
    return (
        Policy("static", "static batching", BatchByBatch(), max_num_seqs * longest_prompt),
        Policy("continuous", "continuous batching", InFlight(), max_num_seqs + longest_prompt),
        Policy("chunked", "+ chunked prefill", InFlight(), chunk),
        Policy("cached", "+ prefix cache", InFlight(), chunk, prefix_caching=True),
    )
