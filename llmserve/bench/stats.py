"""Averages and percentiles: plain numbers in, plain numbers out. It does not know what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest values in proportion, as numpy does by default. `values` in any order, not empty."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return low + (high - low) * (place - below)


@dataclass(frozen=True, slots=True)
class Summary:
    mean: float
    median: float
    p90: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> Summary | None:
        """None where nothing was measured."""
        if not values:
            return None
        return Summary(statistics.fmean(values), percentile(values, 50), percentile(values, 90), percentile(values, 99))


def median(values: Sequence[float | None]) -> float | None:
    """Of those that could be measured; None where none could."""
    known = [value for value in values if value is not None]
    return percentile(known, 50) if known else None
