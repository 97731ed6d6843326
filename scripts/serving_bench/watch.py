"""What a server says of itself, and what it takes of the machine, second by second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx

from serving_bench.server import Server, metrics_of


@dataclass(frozen=True)
class Sample:
    at: float  # by time.perf_counter
    running: float
    waiting: float
    kv_usage: float  # 0 … 1
    rss: int  # bytes, of all its processes


@dataclass
class Watch:
    http: httpx.AsyncClient
    server: Server
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Every second, until cancelled; what a look takes does not add up."""
        due = time.perf_counter()
        while True:
            self.samples.append(await self.look())
            due += 1
            await asyncio.sleep(due - time.perf_counter())

    async def look(self) -> Sample:
        metrics = metrics_of((await self.http.get("/metrics")).text)
        return Sample(
            at=time.perf_counter(),
            running=metrics["num_requests_running"],
            waiting=metrics["num_requests_waiting"],
            kv_usage=metrics["kv_cache_usage_perc"],
            rss=self.server.rss(),
        )
