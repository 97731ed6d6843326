"""Two ways to load a server: so many requests at any time, or requests that come when they come, whatever happens.

Answers are taken whole and not as streams, so that the client takes little of a machine it shares with the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import httpx

from llmserve.bench.load import arrivals, random_prompt
from serving_bench.server import Server

Range = tuple[int, int]
"""The least and the most, both possible."""


@dataclass(frozen=True)
class Outcome:
    due: float  # seconds by time.perf_counter, as all here
    sent: float
    ended: float
    status: int  # of HTTP; 0: no answer
    retry_after: str | None
    generated: int  # tokens of a complete answer; 0: it was none

    @property
    def completed(self) -> bool:
        return self.generated > 0

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


@dataclass(frozen=True)
class Loader:
    """Sends requests with random prompts, lengths drawn evenly from their ranges."""

    http: httpx.AsyncClient
    server: Server
    prompt_len: Range
    output_len: Range
    random: random.Random

    async def closed(self, clients: int, seconds: float) -> list[Outcome]:
        """Each client has one request open at any time, until the time is up and its last one has ended."""
        end = time.perf_counter() + seconds
        outcomes = []

        async def client() -> None:
            while (now := time.perf_counter()) < end:
                outcomes.append(await self._ask(now))

        await asyncio.gather(*(client() for _ in range(clients)))
        return outcomes

    async def open(self, rate: float, seconds: float) -> list[Outcome]:
        """Poisson arrivals. Returns when the last request has ended, be it by the client's own limit."""
        begin = time.perf_counter()
        dues = arrivals(rate, round(rate * seconds), self.random.random())
        tasks = []
        for due in (begin + due for due in dues if due < seconds):
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(self._ask(due)))
        return await asyncio.gather(*tasks)

    async def _ask(self, due: float) -> Outcome:
        body = {
            "model": self.server.model,
            "prompt": random_prompt(self.random, self.random.randint(*self.prompt_len), self.server.vocab_size),
            "max_tokens": self.random.randint(*self.output_len),
            "temperature": 0,
            "ignore_eos": True,
        }
        sent = time.perf_counter()
        status, retry_after, generated = 0, None, 0
        try:
            response = await self.http.post("/v1/completions", json=body)
            status, retry_after = response.status_code, response.headers.get("Retry-After")
            if status == 200:
                generated = response.json()["usage"]["completion_tokens"]
        except httpx.HTTPError:
            pass  # status 0 says it
        return Outcome(due, sent, time.perf_counter(), status, retry_after, generated)
