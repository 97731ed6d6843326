"""results.md: the tables of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cpu_bench.ceilings import UNITS
from cpu_bench.measure import ATTEMPTS, DISTURBED
from cpu_bench.sections import describe
from cpu_bench.shapes import FORMATS
from cpu_bench.summary import Spread, Table, ceilings, peak_of, tables

CEILING_NAMES = {
    "read": "reading memory",
    "int8": "int8 products",
    "int4": "int8 · int4 products",
    "bf16": "bfloat16 products",
}


def number(value: float) -> str:
    """Three or four digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(cell: Spread | None) -> str:
    if cell is None:
        return "–"
    mark = " †" if cell.disturbed else ""
    if cell.count == 1:
        return number(cell.median) + mark
    return f"**{number(cell.median)}** ({number(cell.low)} … {number(cell.high)}){mark}"


def markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_table(rows: list[list[str]]) -> list[str]:
    return [markdown_row(rows[0]), markdown_row(["---"] * len(rows[0])), *map(markdown_row, rows[1:]), ""]


def table_lines(table: Table) -> list[str]:
    metric = table.metric
    note = ", less is better" if metric.less_is_better else ""
    head = f"{FORMATS[table.format].label}: {metric.label}, {metric.unit}{note}"
    rows = [[head, *map(describe, table.points)]]
    rows += [[row.subject, *(spread(row.cells.get(p)) for p in table.points)] for row in table.rows]
    first = table.rows[0]
    for row in table.rows[1:] if first.engine == "llmserve" else []:
        ratios = [table.ratio(row, p) for p in table.points]
        rows.append([f"{first.subject} ÷ {row.subject}", *("–" if r is None else f"{r:.2f}" for r in ratios)])
    for row in table.rows:
        if row.shares:
            rows.append([f"{row.subject}, {share_name(table)}", *(share(row.shares.get(p)) for p in table.points)])
    return markdown_table(rows)


def share_name(table: Table) -> str:
    return (
        f"share of {peak_of(table.format)} peak" if table.points[0].measure == "prefill" else "share of read bandwidth"
    )


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def ceiling_lines(results: dict[str, Any], shape: str) -> list[str]:
    found = ceilings(results, shape)
    if not found:
        return [f"The machine's ceilings could not be measured: {results['absent'].get('ceilings', 'no sample')}.", ""]
    threads = results["settings"]["threads"]
    rows = [["ceiling", "one thread", f"{threads} threads"]]
    for name, label in CEILING_NAMES.items():
        cells = [found.get(f"{name}_1"), found.get(name)]
        scaled = [c and replace(c, median=c.median / 1e9, low=c.low / 1e9, high=c.high / 1e9) for c in cells]
        rows.append([f"{label}, {UNITS[name]}", *map(spread, scaled)])
    return markdown_table(rows)


def head_lines(results: dict[str, Any]) -> list[str]:
    lines = ["# llmserve beside its peers on this CPU", ""]
    lines += markdown_table(
        [["machine", ""], *([name, str(value)] for name, value in results["machine"].items())]
        + [[f"version of {name}", value] for name, value in results["versions"].items()]
        + [[f"setting: {name}", str(value)] for name, value in results["settings"].items()]
    )
    lines.append(
        "Cells are medians over the rounds, with the least and the greatest. In every round each engine is measured "
        "once at each point, one after the other; prompts are random token ids, weights are random. Decoding is timed "
        "from the first token of the last sequence on, so without any prefill. llama.cpp's tools do not sample."
    )
    lines += [
        "",
        "The share of read bandwidth counts the weights that one token needs, against the bandwidth right before and "
        "after each measurement; the share of a peak counts two operations per weight of the layers, without head and "
        "attention.",
        "",
    ]
    return lines


def disturbance_lines(results: dict[str, Any]) -> list[str]:
    loads = [sample["foreign_cores"] for sample in results["samples"]]
    many = sum(load > DISTURBED for load in loads)
    lines = [
        f"{len(loads)} measurements. During {many} of them others used more than {DISTURBED} cores, although most were "
        f"taken up to {ATTEMPTS} times to avoid that; they are left out of cells that have others, and marked † else.",
        "",
    ]
    lines += [f"* Absent: {what}: {reason}" for what, reason in results["absent"].items()]
    lines += [f"* Failed: {failure['what']}: {failure['reason']}" for failure in results["failures"]]
    return [*lines, ""]


def write_markdown(results: dict[str, Any], figures: dict[tuple[str, str], str], target: Path) -> None:
    """`figures`: file names by (shape, section)."""
    lines = head_lines(results)
    last: tuple[str, str] = ("", "")
    for table in tables(results):
        here = (table.shape, table.section.name)
        if table.shape != last[0]:
            lines += [f"## {table.shape}", "", *ceiling_lines(results, table.shape)]
        if here != last:
            lines += [f"### {table.section.title}", ""]
            lines += [f"![{table.section.title}]({figures[here]})", ""] if here in figures else []
        lines += table_lines(table)
        last = here
    lines += ["## What was not measured, and what was disturbed", "", *disturbance_lines(results)]
    target.write_text("\n".join(lines))
