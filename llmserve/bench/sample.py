"""What was seen of one request: when its tokens came, and the usual times computed from that.

All times are in seconds since the benchmark began. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(slots=True)
class Sample:
    due: float
    sent: float = 0.0
    ended: float = 0.0
    token_times: list[float] = field(default_factory=list)  # tokens that came together have the same time
    input_tokens: int = 0  # as the server counts them
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input, where the server says so
    error: str | None = None  # one sentence; the request then counts as failed
    timed_out: bool = False  # ended by the server because its time was up, with what it had by then

    @property
    def ttft(self) -> float | None:
        """Time to first token."""
        return self.token_times[0] - self.sent if self.token_times else None

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; a single token has none."""
        if self.output_tokens < 2 or not self.token_times:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """Inter-token latencies: 0 between tokens that came together."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]

    @property
    def e2e(self) -> float:
        return self.ended - self.sent

    def as_json(self) -> dict[str, Any]:
        return {
            "due_s": _rounded(self.due),
            "sent_s": _rounded(self.sent),
            "e2e_s": _rounded(self.e2e),
            "ttft_s": _rounded(self.ttft),
            "tpot_s": _rounded(self.tpot),
            "itl_s": [_rounded(gap) for gap in self.itl],
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "error": self.error,
            "timed_out": self.timed_out,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 7)
