"""Rank 0's loop: messages in, a step, events out; asleep while there is nothing to do.

What computes the tokens is an `Engine`, of which it knows nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from llmserve.engine.link import FrontLink
from llmserve.engine.messages import Abort, Drain, Draining, Events, Ready, Stats, Stopped, Submit, ToEngine
from llmserve.errors import RequestError
from llmserve.request import Finish, Request, TokenEvent

log = logging.getLogger("llmserve.engine")

STATS_INTERVAL = 0.25
"""Seconds between the figures that travel with events; the last of a burst always travel, and those of a turn."""


class Engine(Protocol):
    """Requests in, token events out. Every request that was submitted ends in exactly one event with `finish` set."""

    @property
    def patience(self) -> float:
        """Seconds that its loop may sleep for messages between two steps while there is work."""

    @property
    def has_work(self) -> bool: ...

    def submit(self, request: Request) -> None:
        """RequestError where it can never be served; it then gets no event."""

    def abort(self, request_id: int) -> TokenEvent | None:
        """The request's final event; None where it has just ended, or where that event comes later."""

    def abort_all(self, finish: Finish, error: str | None = None) -> list[TokenEvent]: ...

    def step(self, meanwhile: Callable[[], None]) -> list[TokenEvent]:
        """What is new. `meanwhile` is called once. Whatever it raises is fatal."""

    def stats(self) -> Stats: ...


class EngineLoop:
    def __init__(self, engine: Engine, link: FrontLink, shutdown_timeout: float) -> None:
        self._engine = engine
        self._link = link
        self._shutdown_timeout = shutdown_timeout
        self._deadline: float | None = None  # set: draining
        self._stats_at = 0.0
        self._some_wait = False  # as the front was last told
        self._events: list[TokenEvent] = []  # that nobody has been told of yet

    def run(self, ready: Ready) -> None:
        """Until a drain is complete. FrontGoneError when the front dies; anything else a step raises is fatal."""
        self._link.send(ready)
        self._link.send(self._engine.stats())
        while not self._drained():
            for message in self._link.receive(self._patience()):
                if event := self._handle(message):
                    self._events.append(event)
            if self._link.signals and self._deadline is None:
                self._drain(self._shutdown_timeout)
            self._step()
        if broken_off := self._engine.abort_all(Finish.ABORT):
            why = "a second signal came" if self._link.signals > 1 else "their time to finish is over"
            log.warning("stopping: %d requests are broken off, as %s", len(broken_off), why)
        self._events += broken_off
        self._report()
        self._link.send(Stopped())

    def _step(self) -> None:
        """What a step yields is told of while the next one is computed, or has failed."""
        try:
            self._events = self._engine.step(self._report)
        except Exception:
            self._report()
            raise

    def _handle(self, message: ToEngine) -> TokenEvent | None:
        match message:
            case Submit(request):
                try:
                    self._engine.submit(request)
                except RequestError as e:
                    return TokenEvent(request.id, None, Finish.ERROR, error=str(e), refused=True)
            case Abort(request_id):
                return self._engine.abort(request_id)
            case Drain(timeout):
                self._drain(timeout)
        return None

    def _drain(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if self._deadline is None:
            log.info("stopping: finishing what runs, for at most %.0f s", timeout)
            self._link.send(Draining())
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)

    def _drained(self) -> bool:
        if self._deadline is None:
            return False
        return not self._engine.has_work or time.monotonic() >= self._deadline or self._link.signals > 1

    def _patience(self) -> float | None:
        """How long to sleep for a message: not at all while there is something to tell."""
        if self._events:
            return 0
        return self._engine.patience if self._engine.has_work or self._deadline is not None else None

    def _report(self) -> None:
        now, stats = time.monotonic(), self._engine.stats()
        # Whether anybody waits is what the front lets requests in by: it hears of that also where nobody has a token.
        turned = (stats.waiting > 0) != self._some_wait
        due = turned or now - self._stats_at >= STATS_INTERVAL or not self._engine.has_work
        if due and (self._events or turned):
            self._stats_at = now
            self._some_wait = stats.waiting > 0
        if self._events:
            self._link.send(Events(self._events, stats if due else None))
            self._events = []
        elif turned:
            self._link.send(stats)
