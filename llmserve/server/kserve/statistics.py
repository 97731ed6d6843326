"""Triton's statistics of a model, of the requests that came by this protocol. (/metrics has those of all.)"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Total:
    count: int = 0
    ns: int = 0

    def body(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """Since the start. Phases are not told apart here and have a count of 0: when a request began to be computed only
    the engine knows."""

    _succeeded: _Total = field(default_factory=_Total)
    _failed: _Total = field(default_factory=_Total)
    _texts: int = 0
    _last_ms: int = 0

    @contextmanager
    def request(self, texts: int) -> Iterator[None]:
        """Counts and times a request; one that is broken off has failed."""
        started = time.perf_counter_ns()
        total = self._failed
        try:
            yield
            total = self._succeeded
            self._texts += texts
        finally:
            total.count += 1
            total.ns += time.perf_counter_ns() - started
            self._last_ms = time.time_ns() // 1_000_000

    def body(self, model: str, version: str) -> dict[str, Any]:
        phases = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
        return {
            "model_stats": [
                {
                    "name": model,
                    "version": version,
                    "last_inference": self._last_ms,
                    "inference_count": self._texts,
                    "execution_count": self._succeeded.count,
                    "inference_stats": {
                        "success": self._succeeded.body(),
                        "fail": self._failed.body(),
                        **{phase: _Total().body() for phase in phases},
                    },
                    "batch_stats": [],
                }
            ]
        }
