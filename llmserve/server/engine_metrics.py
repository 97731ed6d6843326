"""The engine's own numbers for Prometheus, as the engine last sent them. Knows no requests."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmserve.engine.messages import Ready, Stats
from llmserve.server.engine_client import EngineClient


class EngineCollector(Collector):
    """Nothing before the engine is ready."""

    def __init__(self, client: EngineClient, model_name: str) -> None:
        self._client = client
        self._labels = [model_name]

    def collect(self) -> Iterator[Metric]:
        if self._client.stats is not None:
            yield from self._of_stats(self._client.stats)
        if self._client.ready is not None:
            yield from self._of_ready(self._client.ready)

    def _of_stats(self, stats: Stats) -> Iterator[Metric]:
        gauge, counter = self._gauge, self._counter
        yield gauge("num_requests_running", "Requests being computed.", stats.running)
        yield gauge("num_requests_waiting", "Requests that wait to be computed.", stats.waiting)
        yield gauge(
            "kv_cache_usage_perc",
            "Share of the KV cache's blocks in use, 0 to 1, without idle prefixes.",
            stats.kv_usage,
        )
        yield counter("num_preemptions", "Times a request was set back for want of KV blocks.", stats.preemptions)
        yield counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries)
        yield counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_hits)
        if stats.prefix_queries:  # before that there is no rate
            rate = stats.prefix_hits / stats.prefix_queries
            yield gauge("prefix_cache_hit_rate", "Share of prompt tokens looked up so far that were found.", rate)
        yield counter("engine_steps", "Steps that the engine computed.", stats.steps)
        yield counter("scheduled_tokens", "Tokens that the engine computed, prompts included.", stats.scheduled_tokens)

    def _of_ready(self, ready: Ready) -> Iterator[Metric]:
        yield self._gauge("kv_cache_tokens", "Tokens that the KV cache can hold.", ready.kv_cache_tokens)
        yield self._gauge("max_model_len", "Tokens that a request may have, prompt and answer.", ready.max_model_len)
        yield self._gauge("max_num_seqs", "Requests that can be computed at once.", ready.max_num_seqs)

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"llmserve_{name}", help, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, help: str, value: float) -> Metric:
        family = CounterMetricFamily(f"llmserve_{name}", help, labels=["model_name"])
        family.add_metric(self._labels, value)
        return family
