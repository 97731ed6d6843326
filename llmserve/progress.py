"""Progress of long work: a bar with an estimate on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LOG_INTERVAL = 5.0
"""Seconds between lines where no terminal is looking."""


class ByteProgress:
    """Call it with (phase, bytes done, bytes in all)."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._phase = ""
        self._started = self._said = time.monotonic()
        console = Console(stderr=True)
        if console.is_terminal:
            columns = TextColumn("{task.description:>10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> ByteProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._bar:
            if phase != self._phase:
                self._bar.reset(self._task, description=phase, total=total)
            self._bar.update(self._task, completed=done)
        else:
            self._log(phase, done, total)
        self._phase = phase

    def _log(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._started = now
        if phase != self._phase or done == total or now - self._said >= LOG_INTERVAL:
            self._said = now
            left = (now - self._started) * (total - done) / done if done else 0.0
            print(f"{phase}: {done / total:4.0%} of {total / 1e6:,.1f} MB, about {left:.0f} s left", file=sys.stderr)
