"""One figure per shape and section, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpu_bench.report import number
from cpu_bench.sections import describe, position
from cpu_bench.summary import Row, Table, tables

COLORS = {"llmserve": "#c0392b", "llama.cpp": "#2c6fbb", "openvino": "#7b8a3a"}
DASHES = {"int8": "-", "int4": "--", "int4-pure": ":", "bf16": "-."}
MARKERS = {"llmserve": "o", "llama.cpp": "s", "openvino": "^"}
COLUMNS = 2


def write_figures(results: dict[str, Any], folder: Path) -> dict[tuple[str, str], str]:
    """File names by (shape, section)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_section: dict[tuple[str, str], list[Table]] = {}
    for table in tables(results):
        by_section.setdefault((table.shape, table.section.name), []).append(table)
    names = {}
    for (shape, section), found in by_section.items():
        panels = group(found)
        columns = min(COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, 4 * rows), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            (lines if panel[0].section.axis else bars)(axis, panel)
        figure.suptitle(f"{found[0].section.title} – {shape} shape, {results['machine']['cpu']}", fontsize=11)
        figure.tight_layout()
        names[shape, section] = f"{shape}-{section}.png"
        figure.savefig(folder / names[shape, section], dpi=130)
        plt.close(figure)
    return names


def group(found: list[Table]) -> list[list[Table]]:
    """The tables of all formats with the same measure and metric make a panel."""
    panels: dict[tuple[str, str], list[Table]] = {}
    for table in found:
        panels.setdefault((table.points[0].measure, table.metric.name), []).append(table)
    return list(panels.values())


def lines(axis: Any, panel: list[Table]) -> None:
    """A line per subject over the section's points."""
    for table in panel:
        for row in table.rows:
            line(axis, table, row)
    first = panel[0]
    axis.set_xscale("log", base=2)
    places = [position(point) for point in first.points]
    axis.set_xticks(places, [f"{place:,}" for place in places])
    axis.minorticks_off()
    axis.set_xlabel(first.section.axis)
    axis.set_ylabel(f"{first.metric.label} [{first.metric.unit}]")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def name(table: Table, row: Row) -> str:
    """The peers' names hold their names for the format."""
    return f"{row.subject} {table.format}" if row.engine == "llmserve" else row.subject


def line(axis: Any, table: Table, row: Row) -> None:
    points = [point for point in table.points if point in row.cells]
    cells = [row.cells[point] for point in points]
    medians = [cell.median for cell in cells]
    below = [cell.median - cell.low for cell in cells]
    above = [cell.high - cell.median for cell in cells]
    axis.errorbar(
        [position(point) for point in points],
        medians,
        yerr=[below, above],
        label=name(table, row),
        color=COLORS.get(row.engine),
        linestyle=DASHES[table.format],
        marker=MARKERS.get(row.engine),
        markersize=5,
        capsize=3,
    )


def bars(axis: Any, panel: list[Table]) -> None:
    """Formats beside each other, a bar per subject. With several points, each has its own bars."""
    labels: list[str] = []
    for table in panel:
        for point in table.points:
            for row in table.rows:
                cell = row.cells.get(point)
                if cell is None:
                    continue
                place = len(labels)
                error = [[cell.median - cell.low], [cell.high - cell.median]]
                axis.barh(place, cell.median, xerr=error, color=COLORS.get(row.engine), alpha=0.85, capsize=3)
                axis.text(cell.high * 1.01, place, f" {number(cell.median)}", va="center", fontsize=8)
                labels.append(name(table, row))
    first = panel[0]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    note = ", less is better" if first.metric.less_is_better else ""
    axis.set_xlabel(f"{first.metric.label} [{first.metric.unit}]{note}")
    if len(first.points) == 1 and first.points[0].measure != "load":
        axis.set_title(describe(first.points[0]), fontsize=9)
    axis.grid(axis="x", alpha=0.3)
