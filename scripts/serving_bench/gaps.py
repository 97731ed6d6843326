"""Gaps between a stream's tokens while another prompt is computed, and what a chunk of that prompt costs by itself.

Numbers only: who measured them, and how, is elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from llmserve.bench.stats import percentile


@dataclass(frozen=True)
class Gap:
    begin: float  # when the earlier token came
    end: float
    chunk: int | None = None  # which chunk of the long prompt was computed meanwhile, from 0 on

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Phases:
    """Gaps of all streams: before the long prompt was sent, until its answer came, and after."""

    before: list[Gap]
    during: list[Gap]
    after: list[Gap]


@dataclass(frozen=True)
class ChunkTime:
    """Seconds that a chunk takes alone: a straight line over its depth, as attention looks at all that went before."""

    at_start: float
    per_token: float

    def at(self, depth: float) -> float:
        return self.at_start + self.per_token * depth


def chunk_time(measured: Sequence[tuple[float, float]]) -> ChunkTime:
    """Depths with seconds → the line of Theil and Sen: the median of all pairs' slopes, which a few disturbed
    measurements do not bend."""
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(measured, 2) if a[0] != b[0])
    return ChunkTime(statistics.median(seconds - slope * depth for depth, seconds in measured), slope)


def above_line(measured: Sequence[tuple[float, float]], line: ChunkTime) -> float:
    """By how much a depth's median is above the line, at most: whatever bends it is no single disturbance."""
    at: dict[float, list[float]] = {}
    for depth, seconds in measured:
        at.setdefault(depth, []).append(seconds - line.at(depth))
    return max(0.0, *map(statistics.median, at.values()))


def split(streams: Sequence[Sequence[float]], begin: float, sent: float, answered: float, chunks: int) -> Phases:
    """`streams`: the times of each one's tokens, counted from `begin` on; the long prompt came and was answered when?

    The last chunk's step gives the prompt its first token and every stream one, so the gap that ends nearest to
    `answered` is that chunk's, and the gaps before it are the earlier chunks'.
    """
    phases = Phases([], [], [])
    for times in streams:
        gaps = [Gap(*pair) for pair in pairwise(times) if pair[0] >= begin]
        last = min(range(len(gaps)), key=lambda i: abs(gaps[i].end - answered))
        for i, gap in enumerate(gaps):
            if gap.end <= sent:
                phases.before.append(gap)
            elif i > last:
                phases.after.append(gap)
            else:
                chunk = chunks - 1 - (last - i)
                phases.during.append(Gap(gap.begin, gap.end, chunk if chunk >= 0 else None))
    return phases


def beyond_chunk(gap: Gap, chunk_tokens: int, alone: ChunkTime) -> float:
    """What of a gap is not its chunk: how long the chunk takes alone, at the depth where it is, is taken off."""
    return gap.seconds - (0.0 if gap.chunk is None else alone.at(gap.chunk * chunk_tokens))


@dataclass(frozen=True)
class Spread:
    count: int
    median: float
    p99: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(len(values), statistics.median(values), percentile(values, 99), max(values))
