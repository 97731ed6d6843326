"""What an executor tells: Results, Responses and statistics, out of what its loop knows."""

from __future__ import annotations

import datetime
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from standin_control import settings


@dataclass
class Running:
    id: int
    request: Any
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    prefilled: int = 0
    reused_blocks: int = 0
    sent: int = 0
    reason: str = ""
    arrived: float = field(default_factory=time.monotonic)
    scheduled: float = 0.0
    first_token: float = 0.0
    first_iteration: int | None = None

    @property
    def prompt(self) -> list[int]:
        return self.request.input_token_ids  # type: ignore[no-any-return]


def value_of(class_name: str, **values: Any) -> Any:
    """An object that only the executor makes. Every attribute of the contract is set, and no other."""
    cls = getattr(sys.modules["tensorrt_llm.bindings.executor"], class_name)
    result = cls.__new__(cls)
    assert values.keys() == cls._attributes.keys(), (class_name, values.keys() ^ cls._attributes.keys())
    for name, value in values.items():
        object.__setattr__(result, name, value)
    return result


def response(id: int, error: str | None, result: Any, client_id: int | None = None) -> Any:
    cls = sys.modules["tensorrt_llm.bindings.executor"].Response  # type: ignore[attr-defined]
    made = cls.__new__(cls)
    made._request_id, made._error_msg, made._result, made._client_id = id, error, result, client_id
    return made


def result(each: Running, iteration: int, blocks: int) -> Any:
    """`blocks`: of the KV cache that it holds."""
    request, reasons = each.request, sys.modules["tensorrt_llm.bindings.executor"].FinishReason  # type: ignore[attr-defined]
    output = request.output_config
    if request.streaming:
        tokens = each.tokens if request._return_all_generated_tokens else each.tokens[each.sent :]
    else:
        tokens = ([] if output.exclude_input_from_output else each.prompt) + each.tokens
    return value_of(
        "Result",
        is_final=bool(each.reason),
        output_token_ids=[list(tokens)],
        cum_log_probs=[sum(each.log_probs)] if output.return_log_probs else None,
        log_probs=[list(each.log_probs)] if output.return_log_probs else None,
        finish_reasons=[reasons[each.reason or "NOT_FINISHED"]],
        sequence_index=0,
        is_sequence_final=bool(each.reason),
        decoding_iter=len(each.tokens),
        request_perf_metrics=_metrics(each, iteration, blocks) if output.return_perf_metrics else None,
    )


def _metrics(each: Running, iteration: int, blocks: int) -> Any:
    timing = value_of(
        "TimingMetrics",
        arrival_time=datetime.timedelta(seconds=each.arrived),
        first_scheduled_time=datetime.timedelta(seconds=each.scheduled),
        first_token_time=datetime.timedelta(seconds=each.first_token),
        last_token_time=datetime.timedelta(seconds=time.monotonic()),
    )
    cache = value_of(
        "KvCacheMetrics",
        num_total_allocated_blocks=blocks,
        num_new_allocated_blocks=blocks - each.reused_blocks,
        num_reused_blocks=each.reused_blocks,
        num_missed_blocks=blocks - each.reused_blocks,
        kv_cache_hit_rate=each.reused_blocks / blocks,
    )
    return value_of(
        "RequestPerfMetrics",
        timing_metrics=timing,
        kv_cache_metrics=cache,
        first_iter=each.first_iteration,
        last_iter=iteration if each.reason else None,
        iter=iteration,
    )


@dataclass(frozen=True)
class Counts:
    """Of one iteration; blocks of the KV cache that were found again or not are of all so far."""

    iteration: int
    seconds: float
    new: int
    running: int
    queued: int
    done: int
    context_requests: int
    context_tokens: int
    used_blocks: int
    reused_blocks: int
    missed_blocks: int


def iteration_stats(counts: Counts, max_batch_size: int, tokens_per_block: int) -> Any:
    looked_for = counts.reused_blocks + counts.missed_blocks
    cache = value_of(
        "KvCacheStats",
        max_num_blocks=settings().kv_blocks,
        free_num_blocks=settings().kv_blocks - counts.used_blocks,
        used_num_blocks=counts.used_blocks,
        tokens_per_block=tokens_per_block,
        alloc_total_blocks=looked_for,
        alloc_new_blocks=counts.missed_blocks,
        reused_blocks=counts.reused_blocks,
        missed_blocks=counts.missed_blocks,
        cache_hit_rate=counts.reused_blocks / max(1, looked_for),
    )
    batching = value_of(
        "InflightBatchingStats",
        num_scheduled_requests=counts.running + counts.done,
        num_context_requests=counts.context_requests,
        num_gen_requests=counts.running + counts.done - counts.context_requests,
        num_paused_requests=0,
        num_ctx_tokens=counts.context_tokens,
        micro_batch_id=0,
        avg_num_decoded_tokens_per_iter=1.0,
    )
    return value_of(
        "IterationStats",
        timestamp=datetime.datetime.now().strftime("%m-%d-%Y %H:%M:%S.%f"),
        iter=counts.iteration,
        iter_latency_ms=1000 * counts.seconds,
        new_active_requests_queue_latency_ms=0.0,
        num_new_active_requests=counts.new,
        num_active_requests=counts.running,
        num_queued_requests=counts.queued,
        num_completed_requests=counts.done,
        max_num_active_requests=max_batch_size,
        gpu_mem_usage=settings().total_memory - settings().free_memory,
        cpu_mem_usage=0,
        pinned_mem_usage=0,
        kv_cache_stats=cache,
        inflight_batching_stats=batching,
    )


def stats_as_json(stats: Any) -> str:
    """Of the attributes of IterationStats that are numbers; upstream in camelCase."""
    return json.dumps({n: v for n in type(stats)._attributes if isinstance(v := getattr(stats, n), int | float | str)})
