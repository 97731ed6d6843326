"""By when a call has to end: its `timeout`, counted from when this was made. What is left of it the engine keeps to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from llmserve.server.errors import TooLateError

T = TypeVar("T")

NOTHING_S = 1e-9


class Deadline:
    def __init__(self, timeout: float | None) -> None:
        """Seconds; None: it may take any time. To be made in a running event loop."""
        self._now = asyncio.get_running_loop().time
        self._timeout = timeout
        self._began = self._now()

    @property
    def left(self) -> float | None:
        """Hardly anything where the time is up: the engine ends such a request with its own finish reason."""
        if self._timeout is None:
            return None
        return max(self._timeout - (self._now() - self._began), NOTHING_S)

    async def within(self, work: Awaitable[T]) -> T:
        """Its result. It is cancelled, and TooLateError raised, when the time is up."""
        if self._timeout is None:
            return await work
        try:
            return await asyncio.wait_for(work, self.left)
        except asyncio.TimeoutError:
            raise TooLateError(self._timeout) from None
