"""Whether a call may still come in: a bounded queue before the engine, and when to try again where it is full.

Knows numbers of requests and the times at which some ended. No HTTP, no engine, no clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmserve.errors import LlmserveError

RECENT_S = 30.0
"""How long ago a request may have ended to say something of how fast they end."""

MAX_RETRY_S = 30
"""The most that a client is told to wait, but for the spread: beyond that nobody knows, and clients give up (OpenAI's
after a minute)."""

SPREAD = 0.5
"""Clients are told to wait up to so much longer, at random, so that those who were sent away together do not come back
together."""


class QueueFullError(LlmserveError):
    """No room for a call; `retry_after` seconds later there may be."""

    def __init__(self, asked: int, running: int, waiting: int, max_queue: int, retry_after: float) -> None:
        super().__init__(
            f"There is no room for {asked} more request{'s' if asked > 1 else ''}: {running} run, and {waiting} wait, "
            f"of at most {max_queue}; try again in {math.ceil(retry_after)} s."
        )
        self.retry_after = retry_after


class TooManyGrammarsError(LlmserveError):
    """Each may take seconds to read, so who came now would wait for too long."""

    retry_after = 2

    def __init__(self, unread: int) -> None:
        super().__init__(f"{unread} grammars that are new here wait to be read; try again in {self.retry_after} s.")


@dataclass(frozen=True)
class Load:
    """What the front knows of the engine's work. The first is exact, the next two may be a moment old."""

    open: int  # requests sent to the engine whose end it has not told, also of clients that left
    running: int
    waiting: int
    max_num_seqs: int  # that can run at once
    ended_at: Sequence[float] = ()  # when the last requests ended, in order

    @property
    def runnable(self) -> int:
        """So many of the open requests, and of those to come, count as running and not as waiting.

        As long as nobody waits there is one for each row: requests on their way to rows that are free are no queue.
        Once somebody waits, for a row or for KV blocks, only those that do run.
        """
        return self.running if min(self.waiting, self.open) else self.max_num_seqs


@dataclass(frozen=True)
class Admission:
    """At most `max_queue` requests wait. A call's requests come in together or not at all.

    `chance` draws from 0 to 1, evenly.
    """

    max_queue: int
    chance: Callable[[], float] = random.random

    def most(self, max_num_seqs: int) -> int:
        """The requests that a call may have where nothing else is open."""
        return max_num_seqs + self.max_queue

    def check(self, asked: int, load: Load, now: float) -> None:
        """QueueFullError where there is no room for `asked` more."""
        waiting = max(0, load.open - load.runnable)
        excess = load.open + asked - load.runnable - self.max_queue
        if excess > 0:
            retry_after = self._retry_after(excess, waiting, load.ended_at, now) * (1 + SPREAD * self.chance())
            raise QueueFullError(asked, load.open - waiting, waiting, self.max_queue, retry_after)

    def _retry_after(self, excess: int, waiting: int, ended_at: Sequence[float], now: float) -> int:
        """Seconds, 1 to MAX_RETRY_S, until there is room for this call if requests end as fast as they did lately.

        A quarter of the queue has to leave, too, so that not all who were sent away come back for one place.
        """
        recent = [ended for ended in ended_at if now - ended <= RECENT_S]
        if not recent:
            return MAX_RETRY_S
        per_second = len(recent) / max(1.0, now - recent[0])
        return max(1, min(MAX_RETRY_S, math.ceil(max(excess, waiting / 4) / per_second)))
