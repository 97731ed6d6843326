"""A worker process driven over its stdin and stdout, one JSON object per line: both ends.

Standard library only, as workers run in the peers' environments too. A worker waits in a read, so it costs nothing
while others are measured.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

Commands = Mapping[str, Callable[..., Any]]


class WorkerError(Exception):
    """The worker said what failed, ended, or took too long."""


def take_stdout() -> TextIO:
    """What answers are written to; from now on anything else that is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def serve(load: Callable[[], tuple[Any, Commands]]) -> None:
    """A worker's life: load, say so, answer calls until one says so, or stdin ends."""
    answers = take_stdout()

    def answer(result: Callable[[], Any]) -> None:
        try:
            message = {"result": result()}
        except Exception as e:
            message = {"error": f"{type(e).__name__}: {' '.join(str(e).split())}"[:400]}
        answers.write(json.dumps(message) + "\n")

    commands: Commands = {}

    def start() -> Any:
        nonlocal commands
        info, commands = load()
        return info

    answer(start)
    for line in sys.stdin:
        call = json.loads(line)
        if call["call"] is None:
            return
        answer(lambda call=call: commands[call["call"]](**call["arguments"]))


class Worker:
    """The other end. `ready` is what the worker said when it had loaded."""

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str] | None = None, patience: float = 600
    ) -> None:
        self._patience = patience
        self._buffer = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment or os.environ),
                start_new_session=True,
            )
        self._log = log
        try:
            self.ready = self._answer()
        except BaseException:
            self._kill()
            raise

    def call(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._last_words()) from None
        return self._answer()

    def close(self) -> None:
        """Have the worker leave; one that does not is killed. mpirun passes on lines, but not the end of stdin."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b'{"call": null}\n')
            self._process.stdin.close()
            self._process.wait(15)
        except (OSError, subprocess.TimeoutExpired):
            self._kill()

    def _answer(self) -> Any:
        line = self._read_line()
        message = json.loads(line)
        if "error" in message:
            raise WorkerError(message["error"])
        return message["result"]

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([source], [], [], max(0, deadline - time.monotonic()))
            if not readable:
                self._kill()
                raise WorkerError(f"no answer within {self._patience:.0f} s")
            data = os.read(source, 1 << 16)
            if not data:
                self._kill()
                raise WorkerError(self._last_words())
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"the worker ended; last line of its log: {lines[-1] if lines else '(nothing)'}"[:400]
