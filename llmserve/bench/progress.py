"""How far a benchmark is, without disturbing it: drawn only when it is told something, by no thread of its own."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from llmserve.progress import LOG_INTERVAL

REDRAW_INTERVAL = 0.2


class BenchProgress:
    """A bar with an estimate on a terminal, a line now and then elsewhere, which begins with `name`. `total` is in any
    unit of work."""

    def __init__(self, total: int, name: str = "bench") -> None:
        self._total, self._done, self._name = total, 0, name
        self._started = self._said = time.monotonic()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = TextColumn("{task.description:>16}"), BarColumn(), TaskProgressColumn()
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False, transient=True)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> BenchProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """Name what is being done from now on."""
        if self._bar:
            self._bar.update(self._task, description=what, refresh=True)

    def advance(self, amount: int) -> None:
        """Cheap where nothing is due, so it may be called for every token."""
        self._done += amount
        now = time.monotonic()
        if now - self._said < (REDRAW_INTERVAL if self._bar else LOG_INTERVAL):
            return
        self._said = now
        if self._bar:
            self._bar.update(self._task, completed=self._done, refresh=True)
        elif self._done:
            left = (now - self._started) * (self._total - self._done) / self._done
            print(f"{self._name}: {self._done / self._total:4.0%}, about {left:.0f} s left", file=sys.stderr)
