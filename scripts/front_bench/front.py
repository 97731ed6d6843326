"""The front as `llmserve run` has it, with a task in its event loop that watches how late the loop is.

Runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from llmserve.config import ServerConfig
from llmserve.server.main import FrontConfig, serve

from .cores import stay_on

EVERY_S = 0.002


@dataclass(frozen=True, slots=True)
class Look:
    """One moment of the front: when it was (time.perf_counter, the same in all processes), how many seconds later than
    it should have been, and the processor time the front had used by then."""

    at: float
    late: float
    cpu: float


def run_front(folder: Path, endpoint: str, port: int, cores: set[int], results: Connection) -> None:
    """Until the engine is gone; then the looks are sent to `results`."""
    stay_on(cores)
    looks: list[Look] = []

    async def live() -> None:
        config = FrontConfig(engine=folder, endpoint=endpoint, server=ServerConfig(host="127.0.0.1", port=port))
        watching = asyncio.create_task(_watch(looks))
        await serve(config)
        watching.cancel()

    uvloop.run(live())
    results.send(looks)


async def _watch(looks: list[Look]) -> None:
    while True:
        due = time.perf_counter() + EVERY_S
        await asyncio.sleep(EVERY_S)
        now = time.perf_counter()
        looks.append(Look(now, now - due, time.process_time()))
