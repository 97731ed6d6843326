"""What Prometheus reads, under vLLM's names with the prefix `llmserve_`, so that its dashboards fit.

Requests are counted and timed here, where a client would see them; what only the engine knows comes from its stats.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmserve.request import Finish, TokenEvent
from llmserve.server.engine_client import EngineClient
from llmserve.server.generation import Job

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0)
SLOW = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """One registry of its own: nothing here is shared with another server in the same process."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(client, model_name))

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"llmserve_{name}", help, ["model_name", *labels], registry=self.registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"llmserve_{name}", help, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model_name)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens admitted.").labels(model_name)
        self.cached_tokens = counter("prompt_tokens_cached", "Of those, found in the cache.").labels(model_name)
        self.generation_tokens = counter("generation_tokens", "Tokens generated.").labels(model_name)
        success = counter("request_success", "Requests that ended, by how.", "finished_reason")
        self.success = {reason: success.labels(model_name, reason.value) for reason in Finish}
        refused = counter("request_refused", "Requests that were not admitted, by why.", "reason")
        self.refused_queue_full = refused.labels(model_name, "queue_full")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "From admission to first token.", FIRST)
        self.inter_token = histogram("inter_token_latency_seconds", "Between two tokens of a request.", FAST)
        self.per_output_token = histogram(
            "request_time_per_output_token_seconds", "A request's mean time between two tokens.", FAST
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From admission to the end.", SLOW)
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens of a request.", SIZES)
        self.request_generation_tokens = histogram("request_generation_tokens", "Tokens a request generated.", SIZES)
        self.params_max_tokens = histogram("request_params_max_tokens", "max_tokens of a request.", SIZES)
        self.params_n = histogram("request_params_n", "Choices asked for in one call.", (1, 2, 5, 10, 20, 50, 128))

    def observer(self) -> CallObserver:
        return CallObserver(self)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class CallObserver:
    """Times the requests of one call, from now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._admitted = time.perf_counter()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._tokens: dict[int, int] = {}

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
        if event.vector is not None:
            self._metrics.cached_tokens.inc(event.cached_tokens)
        if event.token is None:
            return
        id, now = event.request_id, time.perf_counter()
        if id in self._last:
            self._metrics.inter_token.observe(now - self._last[id])
        else:
            self._first[id] = now
            self._metrics.time_to_first_token.observe(now - self._admitted)
            self._metrics.cached_tokens.inc(event.cached_tokens)
        self._last[id] = now
        self._tokens[id] = self._tokens.get(id, 0) + 1
        self._metrics.generation_tokens.inc()

    def finished(self, request_id: int, reason: Finish) -> None:
        tokens = self._tokens.get(request_id, 0)
        self._metrics.success[reason].inc()
        self._metrics.e2e.observe(time.perf_counter() - self._admitted)
        self._metrics.request_generation_tokens.observe(tokens)
        if tokens > 1:
            elapsed = self._last[request_id] - self._first[request_id]
            self._metrics.per_output_token.observe(elapsed / (tokens - 1))


class _EngineCollector(Collector):
    """The engine's own numbers, as it last sent them."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self._client = client
        self._labels = [model_name]

    def collect(self) -> Iterator[Metric]:
        stats, ready = self._client.stats, self._client.ready
        if stats is not None:
            yield self._gauge("num_requests_running", "Requests being computed.", stats.running)
            yield self._gauge("num_requests_waiting", "Requests waiting to be computed.", stats.waiting)
            yield self._gauge("kv_cache_usage_perc", "KV cache in use; 1 is all of it.", stats.kv_usage)
            yield self._counter("num_preemptions", "Requests set back for want of KV cache.", stats.preemptions)
            yield self._counter("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_queries)
            yield self._counter("prefix_cache_hits", "Prompt tokens found.", stats.prefix_hits)
            if stats.prefix_queries:  # before that there is no rate
                rate = stats.prefix_hits / stats.prefix_queries
                yield self._gauge("prefix_cache_hit_rate", "Prompt tokens found, of those looked up so far.", rate)
            yield self._counter("engine_steps", "Steps computed.", stats.steps)
            yield self._counter("scheduled_tokens", "Tokens computed, prompts included.", stats.scheduled_tokens)
        if ready is not None:
            yield self._gauge("kv_cache_tokens", "Tokens that the KV cache holds.", ready.kv_cache_tokens)
            yield self._gauge("max_model_len", "Tokens that one request may have.", ready.max_model_len)

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"llmserve_{name}", help, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, help: str, value: float) -> Metric:
        family = CounterMetricFamily(f"llmserve_{name}", help, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family
