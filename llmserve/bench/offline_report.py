"""An engine's figures for people: tables on a terminal, a line for each row elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from llmserve.bench.offline_result import OfflineResult, Row

SINGLE = {
    "prompt_len": "prompt",
    "ttft_ms": "TTFT ms",
    "prefill_tok_s": "prefill tok/s",
    "tpot_ms": "TPOT ms",
    "decode_tok_s": "decode tok/s",
}
BATCHES = {
    "batch": "batch",
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "decode_tok_s": "decode tok/s",
    "output_tok_s": "with prefill tok/s",
}
"""Figure → its heading."""


def print_offline(result: OfflineResult, name: str) -> None:
    console = Console(markup=False, emoji=False)  # a name may hold [brackets]
    parts = [(f"{name}, one sequence", SINGLE, result.single)]
    if result.batches:
        prompt = result.batches[0].case.prompt_len
        parts.append((f"{name}, batches, prompts of {prompt} tokens", BATCHES, result.batches))
    for title, columns, rows in parts:
        if console.is_terminal:
            console.print(_table(title, columns, rows))
        else:
            print("\n".join(_plain(title, columns, rows)))
    for note in result.notes:
        print(f"note: {note}")


def _table(title: str, columns: dict[str, str], rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row in rows:
        figures = row.figures()
        table.add_row(*(_shown(figures[key]) for key in columns))
    return table


def _plain(title: str, columns: dict[str, str], rows: Sequence[Row]) -> list[str]:
    widths = {key: max(len(heading), 8) for key, heading in columns.items()}
    lines = [[f"{heading:>{widths[key]}}" for key, heading in columns.items()]]
    for row in rows:
        figures = row.figures()
        lines.append([f"{_shown(figures[key]):>{widths[key]}}" for key in columns])
    return [title, *("  ".join(line) for line in lines)]


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"
