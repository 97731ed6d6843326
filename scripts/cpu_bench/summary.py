"""From raw samples to medians, ratios and shares of the machine's ceilings. Nothing here measures or prints."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cpu_bench.measure import DISTURBED
from cpu_bench.sections import METRICS, SECTIONS, Metric, Section
from cpu_bench.shapes import SHAPES, bytes_per_decoded_token, operations_per_prompt_token
from cpu_bench.subjects import Point

Taken = tuple[float, float]
"""A measured value, and the cores that others used meanwhile."""


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float
    count: int
    disturbed: bool

    @staticmethod
    def of(samples: list[Taken]) -> Spread:
        """Of the undisturbed ones, unless there are none."""
        calm = [value for value, foreign in samples if foreign <= DISTURBED]
        values = calm or [value for value, _ in samples]
        return Spread(statistics.median(values), min(values), max(values), len(values), not calm)


@dataclass(frozen=True)
class Row:
    """One subject over the points of a table."""

    subject: str
    engine: str
    cells: dict[Point, Spread]
    shares: dict[Point, float]  # of the ceiling, where there is one


@dataclass(frozen=True)
class Table:
    """One metric of a section in one format."""

    shape: str
    section: Section
    format: str
    metric: Metric
    points: list[Point]
    rows: list[Row]  # ours first

    def ratio(self, row: Row, point: Point) -> float | None:
        """The first row over `row`."""
        first, other = self.rows[0].cells.get(point), row.cells.get(point)
        return first.median / other.median if first and other else None


def ceilings(results: dict[str, Any], shape: str, section: str | None = None) -> dict[str, Spread]:
    """By name, e.g. `read_1`; of one section's rounds or of all."""
    found: dict[str, list[Taken]] = {}
    for sample in results["samples"]:
        if sample["subject"] == "ceilings" and sample["shape"] == shape and section in (None, sample["section"]):
            for name, value in sample["values"].items():
                found.setdefault(name, []).append((value, sample["foreign_cores"]))
    return {name: Spread.of(values) for name, values in found.items()}


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """By shape, section, format and metric, in the order in which they were measured."""
    keys = dict.fromkeys((s["shape"], s["section"], s["format"]) for s in results["samples"] if "point" in s)
    for shape, section_name, format_name in keys:
        section = SECTIONS[section_name]
        samples = [
            s
            for s in results["samples"]
            if "point" in s and (s["shape"], s["section"], s["format"]) == (shape, section_name, format_name)
        ]
        limits = ceilings(results, shape, section_name)
        for measure in dict.fromkeys(point.measure for point in section.points):
            for metric in METRICS[measure]:
                points = [p for p in section.points if p.measure == measure]
                table = _table(samples, shape, section, format_name, metric, points, limits)
                if table.rows:
                    yield table


def _table(
    samples: list[dict[str, Any]],
    shape: str,
    section: Section,
    format_name: str,
    metric: Metric,
    points: list[Point],
    limits: dict[str, Spread],
) -> Table:
    found: dict[tuple[str, str], dict[Point, list[Taken]]] = {}
    of_ceiling: dict[tuple[str, str], dict[Point, list[Taken]]] = {}
    for sample in samples:
        point, who = Point(**sample["point"]), (sample["subject"], sample["engine"])
        if point in points and metric.name in sample["values"]:
            value, foreign = sample["values"][metric.name] * metric.scale, sample["foreign_cores"]
            found.setdefault(who, {}).setdefault(point, []).append((value, foreign))
            if (share := _share(shape, who[1], format_name, point, value, sample["values"], limits)) is not None:
                of_ceiling.setdefault(who, {}).setdefault(point, []).append((share, foreign))
    rows = []
    for who, values in found.items():
        cells = {point: Spread.of(taken) for point, taken in values.items()}
        shares = {point: Spread.of(taken).median for point, taken in of_ceiling.get(who, {}).items()}
        rows.append(Row(*who, cells, shares))
    rows.sort(key=lambda row: row.engine != "llmserve")
    return Table(shape, section, format_name, metric, [p for p in points if any(p in r.cells for r in rows)], rows)


def _share(
    shape: str,
    engine: str,
    format_name: str,
    point: Point,
    value: float,
    values: dict[str, float],
    limits: dict[str, Spread],
) -> float | None:
    """How much of what the machine can do: bytes of weights against its bandwidth around that measurement, operations
    against its peak."""
    if point.measure == "decode" and "read" in values:
        return bytes_per_decoded_token(SHAPES[shape], engine, format_name) * value / values["read"]
    if point.measure == "prefill" and peak_of(format_name) in limits:
        return operations_per_prompt_token(SHAPES[shape]) * value / limits[peak_of(format_name)].median
    return None


def peak_of(format_name: str) -> str:
    """The ceiling of its products: where bytes have no dot product, those with 4 bits are faster than those with 8."""
    return "int4" if format_name.startswith("int4") else "int8"
