"""What a scheduler has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    preemptions: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache, at a request's first admission
    prefix_hits: int = 0  # of those, found
    steps: int = 0
    scheduled_tokens: int = 0
