"""What Prometheus reads, under vLLM's names with the prefix `llmserve_`, so that its dashboards fit.

Requests are counted and timed here, where a client would see them; what only the engine knows is in `engine_metrics`.
A metric's help is its line in docs/metrics.md, too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from llmserve.request import Finish, TokenEvent
from llmserve.server.engine_client import EngineClient
from llmserve.server.engine_metrics import EngineCollector
from llmserve.server.generation import Job

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0)
SLOW = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """One registry of its own: nothing here is shared with another server in the same process."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(client, model_name))

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"llmserve_{name}", help, ["model_name", *labels], registry=self.registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"llmserve_{name}", help, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model_name)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of admitted requests.").labels(model_name)
        self.cached_tokens = counter(
            "prompt_tokens_cached", "Of those, tokens found in the prefix cache when the request began to be computed."
        ).labels(model_name)
        self.generation_tokens = counter("generation_tokens", "Tokens generated.").labels(model_name)
        success = counter(
            "request_success",
            "Requests that ended, by how: stop, length, timeout, abort (the client left) or error. "
            "Each choice of each prompt is a request, here and everywhere.",
            "finished_reason",
        )
        self.success = {reason: success.labels(model_name, reason.value) for reason in Finish}
        refused = counter(
            "request_refused",
            "Requests that were not admitted, by why: queue_full. A call that is refused counts with all its choices.",
            "reason",
        )
        self.refused_queue_full = refused.labels(model_name, "queue_full")
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "Seconds from admission to a request's first token.", FIRST
        )
        self.inter_token = histogram("inter_token_latency_seconds", "Seconds between two tokens of a request.", FAST)
        self.per_output_token = histogram(
            "request_time_per_output_token_seconds", "A request's mean of the seconds between two tokens.", FAST
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "Seconds from a request's first token to its last.", SLOW
        )
        self.e2e = histogram("e2e_request_latency_seconds", "Seconds from admission to a request's end.", SLOW)
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens of a request.", SIZES)
        self.request_generation_tokens = histogram(
            "request_generation_tokens", "Tokens that a request had generated when it ended.", SIZES
        )
        self.params_max_tokens = histogram(
            "request_params_max_tokens", "Tokens that a request may generate: its max_tokens, or what fits.", SIZES
        )
        self.params_n = histogram("request_params_n", "Choices for each prompt of a call.", (1, 2, 5, 10, 20, 50, 128))

    def observer(self) -> CallObserver:
        return CallObserver(self)

    def text(self) -> bytes:
        return generate_latest(self.registry)


@dataclass(slots=True)
class _Times:
    """Of a request's tokens, by time.perf_counter."""

    first: float
    last: float
    tokens: int = 1


class CallObserver:
    """Times the requests of one call, from now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._admitted = time.perf_counter()
        self._times: dict[int, _Times] = {}

    def admitted(self, job: Job) -> None:
        self._metrics.params_n.observe(job.n)
        for prompt, limit in zip(job.prompts, job.max_tokens, strict=True):
            for _ in range(job.n):
                self.admitted_prompt(len(prompt))
                self._metrics.params_max_tokens.observe(limit)

    def admitted_prompt(self, tokens: int) -> None:
        """Of a request of any kind."""
        self._metrics.prompt_tokens.inc(tokens)
        self._metrics.request_prompt_tokens.observe(tokens)

    def event(self, event: TokenEvent) -> None:
        if event.cached_tokens:
            self._metrics.cached_tokens.inc(event.cached_tokens)
        if event.token is None:
            return
        now = time.perf_counter()
        times = self._times.get(event.request_id)
        if times is None:
            self._times[event.request_id] = _Times(now, now)
            self._metrics.time_to_first_token.observe(now - self._admitted)
        else:
            self._metrics.inter_token.observe(now - times.last)
            times.last = now
            times.tokens += 1
        self._metrics.generation_tokens.inc()

    def finished(self, request_id: int, reason: Finish) -> None:
        times = self._times.pop(request_id, None)
        self._metrics.success[reason].inc()
        self._metrics.e2e.observe(time.perf_counter() - self._admitted)
        self._metrics.request_generation_tokens.observe(times.tokens if times else 0)
        if times is not None:
            self._metrics.decode_time.observe(times.last - times.first)
            if times.tokens > 1:
                self._metrics.per_output_token.observe((times.last - times.first) / (times.tokens - 1))
