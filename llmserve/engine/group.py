"""An engine's ranks as child processes of this one: start them, hear of their end, take them along when we go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from types import TracebackType

from llmserve.config import EngineConfig, Manifest
from llmserve.engine.launch import RankOptions, die_with_parent, rank_command, rank_environment

STOP_PATIENCE = 5.0
"""Seconds that ranks get to leave by themselves before they are killed."""


class EngineGroup:
    """Use as an async context manager: on leaving, no rank is left.

    The ranks get a session of their own, so that Ctrl-C at the terminal reaches us alone and we can end them in order.
    """

    def __init__(self, engine: Path, config: EngineConfig, endpoint: str, log_level: str = "INFO") -> None:
        options = RankOptions(engine=str(engine), config=config, endpoint=endpoint, log_level=log_level)
        self._command = rank_command(options, Manifest.read(engine).tp_size)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> EngineGroup:
        parent = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=rank_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM, parent),  # mpirun then kills its ranks
        )
        return self

    async def wait(self) -> int:
        """The exit code of the ranks, once they have ended."""
        assert self._process is not None
        return await self._process.wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            return
        try:
            # Left in order, they were told to stop and are about to end; else there is nothing to wait for.
            await asyncio.wait_for(self._process.wait(), STOP_PATIENCE if kind is None else 0)
        except asyncio.TimeoutError:
            self._signal(signal.SIGTERM)  # mpirun kills its ranks, which have sessions of their own
            try:
                await asyncio.wait_for(self._process.wait(), STOP_PATIENCE)
            except asyncio.TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(self._process.pid, number)
