"""Markdown: rows of cells, and what was found of what was claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A claim, what was measured of it, and the limit that decides."""

    claim: str
    measured: str
    limit: str
    holds: bool

    @property
    def row(self) -> list[str]:
        return [self.claim, self.measured, self.limit, "yes" if self.holds else "**no**"]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check_table(checks: Sequence[Check]) -> str:
    return markdown_table(["claim", "measured", "limit", "holds"], [check.row for check in checks])


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"
