"""The thread that fetches TensorRT-LLM's responses and statistics: its calls wait, and rank 0's loop must not.

What it fetches waits here until the loop, woken, takes it. It also knows when there was last any progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from llmserve.errors import EngineDeadError
from llmserve.tensorrt_llm.library import first_line

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm

WAIT = timedelta(milliseconds=100)
"""How long one call waits for responses."""

STATS_INTERVAL = 0.2
"""Seconds between two looks at the statistics."""


@dataclass(slots=True)
class Totals:
    """Of all iterations so far. Written by the pump's thread alone; each number is read by itself."""

    steps: int = 0
    scheduled_tokens: int = 0
    paused: int = 0
    queued: int = 0  # in the last iteration, as is the rest
    max_blocks: int = 0
    used_blocks: int = 0
    reused_blocks: int = 0
    missed_blocks: int = 0

    def add(self, stats: trtllm.IterationStats) -> None:
        self.steps += 1
        self.queued = stats.num_queued_requests
        if (batch := stats.inflight_batching_stats) is not None:
            self.scheduled_tokens += batch.num_ctx_tokens + batch.num_gen_requests
            self.paused += batch.num_paused_requests
        if (cache := stats.kv_cache_stats) is not None:
            self.max_blocks, self.used_blocks = cache.max_num_blocks, cache.used_num_blocks
            self.reused_blocks, self.missed_blocks = cache.reused_blocks, cache.missed_blocks


class Pump:
    def __init__(self, executor: trtllm.Executor, wake: Callable[[], None]) -> None:
        self.totals = Totals()
        self.progress_at = time.monotonic()  # when a response or an iteration came last
        self._executor = executor
        self._wake = wake
        self._responses: SimpleQueue[trtllm.Response] = SimpleQueue()
        self._failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="responses", daemon=True)
        self._thread.start()

    def take(self) -> list[trtllm.Response]:
        """All that has come since the last time. EngineDeadError where nothing can come any more."""
        taken = []
        while True:
            try:
                taken.append(self._responses.get_nowait())
            except Empty:
                break
        if self._failure is not None:
            raise EngineDeadError(self._failure)
        return taken

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        stats_at = 0.0
        try:
            while not self._stop.is_set():
                responses = self._executor.await_responses(timeout=WAIT)
                if responses:
                    self.progress_at = time.monotonic()
                    for response in responses:
                        self._responses.put(response)
                    self._wake()
                if time.monotonic() - stats_at >= STATS_INTERVAL:
                    stats_at = time.monotonic()
                    for stats in self._executor.get_latest_iteration_stats():
                        self.progress_at = stats_at
                        self.totals.add(stats)
        except Exception as e:
            self._failure = f"TensorRT-LLM failed: {first_line(e)}."
            self._wake()
