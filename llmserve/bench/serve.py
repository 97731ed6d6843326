"""A load sent to a running server over HTTP, and what came back. Knows the requests as samples, and prints nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from llmserve.bench.client import Client, first_model
from llmserve.bench.load import Asked, make_load
from llmserve.bench.progress import BenchProgress
from llmserve.bench.sample import Sample
from llmserve.bench.settings import ServeSettings
from llmserve.bench.stats import Summary
from llmserve.errors import LlmserveError

EXTRA: dict[str, Any] = {
    "temperature": 0,
    "ignore_eos": True,  # so that every answer has the length that was asked for
    "return_token_ids": True,  # so that a token is seen even where it is no text yet
}
"""Beside OpenAI's parameters; vLLM and SGLang know them too, and --extra-body takes them out for who does not."""


@dataclass(frozen=True)
class ServeResult:
    model: str
    samples: list[Sample]

    @property
    def successful(self) -> list[Sample]:
        """Those with a whole answer."""
        return [sample for sample in self.samples if sample.error is None and not sample.timed_out]

    @property
    def timed_out(self) -> int:
        """Those that the server ended because their time was up."""
        return sum(sample.error is None and sample.timed_out for sample in self.samples)

    @property
    def first_error(self) -> str | None:
        return next((sample.error for sample in self.samples if sample.error is not None), None)

    @property
    def duration(self) -> float:
        """Seconds from the first request's beginning to the last one's end."""
        return max(s.ended for s in self.samples) - min(s.sent for s in self.samples)

    def figures(self) -> dict[str, float | int | None]:
        """By the names of `vllm bench serve`'s result file. Requests that failed or timed out are counted and are in
        nothing else."""
        good, duration = self.successful, self.duration
        given, made = sum(s.input_tokens for s in good), sum(s.output_tokens for s in good)
        figures: dict[str, float | int | None] = {
            "completed": len(good),
            "failed": len(self.samples) - len(good) - self.timed_out,
            "timed_out": self.timed_out,
            "duration": duration,
            "total_input_tokens": given,
            "total_cached_tokens": sum(s.cached_tokens for s in good),
            "total_output_tokens": made,
            "request_throughput": len(good) / duration,
            "output_throughput": made / duration,
            "total_token_throughput": (given + made) / duration,
        }
        for name, seconds in self.times().items():
            summary = Summary.of(seconds)
            for kind in ("mean", "median", "p90", "p99"):
                figures[f"{kind}_{name}_ms"] = getattr(summary, kind) * 1e3 if summary else None
        return figures

    def times(self) -> dict[str, list[float]]:
        """Every measured time of the successful requests, in seconds, by its usual name."""
        good = self.successful
        return {
            "ttft": [s.ttft for s in good if s.ttft is not None],
            "tpot": [s.tpot for s in good if s.tpot is not None],
            "itl": [gap for s in good for gap in s.itl],
            "e2el": [s.e2e for s in good],
        }


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began


async def run_load(settings: ServeSettings, load: Sequence[Asked], progress: BenchProgress) -> ServeResult:
    """Progress is in tokens. LlmserveError where there is no server, or its first answer, a rehearsal, fails."""
    async with _http(settings) as http:
        model = settings.model or await first_model(http)
        extra = EXTRA | settings.extra_body
        progress.begin("warming up")
        for asked in load_of(settings, settings.warmup, f"warm-up {settings.seed}"):
            await _rehearse(Client(http, model, extra, Clock()), asked)
        progress.begin("measuring")
        client = Client(http, model, extra, Clock(), progress.advance)
        return ServeResult(model, await _send_all(client, load, settings.max_concurrency, progress))


def load_of(settings: ServeSettings, count: int, seed: int | str) -> list[Asked]:
    return make_load(
        count=count,
        rate=settings.request_rate,
        input_len=settings.input_len,
        output_len=settings.output_len,
        vocab_size=settings.vocab_size,
        seed=seed,
    )


def _http(settings: ServeSettings) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=settings.url,
        headers={"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {},
        timeout=settings.timeout,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),  # the load alone decides how many
    )


async def _rehearse(client: Client, asked: Asked) -> None:
    sample = await client.complete(asked)
    if sample.error is not None:
        raise LlmserveError(
            f"a request before the measurement ({len(asked.prompt)} tokens in, {asked.output_len} out) failed: "
            f"{sample.error.rstrip('.')}; ask for what this server can do (--vocab-size for other token ids), or "
            "measure without it by --warmup 0."
        )


async def _send_all(
    client: Client, load: Sequence[Asked], max_concurrency: int | None, progress: BenchProgress
) -> list[Sample]:
    slots = asyncio.Semaphore(max_concurrency or len(load))

    async def send(asked: Asked) -> Sample:
        await asyncio.sleep(asked.due - client.clock())  # from the beginning and not from the last, so none drifts
        async with slots:
            sample = await client.complete(asked)
        progress.advance(max(0, asked.output_len - len(sample.token_times)))  # those that were not seen to come
        return sample

    return await asyncio.gather(*map(send, load))
