"""A real run and its simulation, side by side. Plain values; neither engines nor the simulator are known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.workload import Arrivals, Floats, Trace


@dataclass(frozen=True, slots=True)
class Seen:
    """One run of either."""

    throughput: float
    ttft: Floats

    @staticmethod
    def of(trace: Trace, first: Floats, ended: Floats) -> Seen:
        duration = float(ended.max() - trace.arrivals[0])
        return Seen(float(trace.outputs.sum()) / duration, first - trace.arrivals)

    @property
    def median_ttft(self) -> float:
        return float(np.median(self.ttft))


@dataclass(frozen=True, slots=True)
class Pair:
    """One round."""

    arrivals: Arrivals
    real: Seen
    simulated: Seen

    @property
    def throughput_ratio(self) -> float:
        """Simulated over real."""
        return self.simulated.throughput / self.real.throughput

    @property
    def ttft_ratio(self) -> float:
        return self.simulated.median_ttft / self.real.median_ttft

    def as_json(self) -> dict[str, Any]:
        sides = {
            name: {"throughput_tokens_per_s": seen.throughput, "median_ttft_s": seen.median_ttft}
            for name, seen in (("real", self.real), ("simulated", self.simulated))
        }
        ratios = {"throughput_ratio": self.throughput_ratio, "median_ttft_ratio": self.ttft_ratio}
        return {"arrivals": str(self.arrivals), **sides, **ratios}
