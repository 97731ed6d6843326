"""A serving benchmark's figures as the block of text that users of vLLM know."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmserve.bench.serve import ServeResult
from llmserve.bench.settings import ServeSettings

WIDTH = 50
LABEL = 40
TIMES = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}
KINDS = {"mean": "Mean", "median": "Median", "p90": "P90", "p99": "P99"}


def serving_block(result: ServeResult, settings: ServeSettings) -> str:
    return "\n".join(_lines(result, settings))


def _lines(result: ServeResult, settings: ServeSettings) -> Iterator[str]:
    figures = result.figures()
    yield " Serving Benchmark Result ".center(WIDTH, "=")
    yield _row("Successful requests:", figures["completed"])
    yield _row("Failed requests:", figures["failed"])
    if figures["timed_out"]:
        yield _row("Timed out by the server:", figures["timed_out"])
    if settings.max_concurrency is not None:
        yield _row("Maximum request concurrency:", settings.max_concurrency)
    if math.isfinite(settings.request_rate):
        yield _row("Request rate configured (RPS):", settings.request_rate)
    yield _row("Benchmark duration (s):", figures["duration"])
    yield _row("Total input tokens:", figures["total_input_tokens"])
    if figures["total_cached_tokens"]:
        yield _row("  of which in the prefix cache:", figures["total_cached_tokens"])
    yield _row("Total generated tokens:", figures["total_output_tokens"])
    yield _row("Request throughput (req/s):", figures["request_throughput"])
    yield _row("Output token throughput (tok/s):", figures["output_throughput"])
    yield _row("Total Token throughput (tok/s):", figures["total_token_throughput"])
    for name, (short, long) in TIMES.items():
        yield long.center(WIDTH, "-")
        for kind, word in KINDS.items():
            yield _row(f"{word} {short} (ms):", figures[f"{kind}_{name}_ms"])
    yield "=" * WIDTH
    if figures["failed"]:
        yield f"{figures['failed']} of {len(result.samples)} requests failed; the first: {result.first_error}"


def _row(label: str, value: float | int | None) -> str:
    shown = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
    return f"{label:<{LABEL}} {shown}"
