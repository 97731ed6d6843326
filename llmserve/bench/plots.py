"""The figures as a picture. matplotlib is loaded here only, when a picture is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.bench.offline_result import OfflineResult, Row
from llmserve.bench.sample import Sample
from llmserve.bench.serve import ServeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40


def plot_offline(result: OfflineResult, title: str, file: Path) -> None:
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and looks for a screen

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, parse_math=False)
    batches, lengths = figure.subplots(1, 2)
    if result.batches:
        _line(batches, "batch", {"decode_tok_s": "decode", "output_tok_s": "with prefill"}, result.batches)
    batches.set(xlabel="sequences in the batch", ylabel="new tokens per second", title="batches")
    _line(lengths, "prompt_len", {"prefill_tok_s": "prefill"}, result.single)
    lengths.set(xlabel="tokens of the prompt", ylabel="prompt tokens per second", title="prefill of one sequence")
    figure.savefig(file, format="png", dpi=120)


def plot_serve(result: ServeResult, title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(title, parse_math=False)
    (ttft, tpot), (itl, rate) = figure.subplots(2, 2)
    times = result.times()
    _histogram(ttft, times["ttft"], "time to first token", "requests")
    _histogram(tpot, times["tpot"], "time per output token", "requests")
    _histogram(itl, times["itl"], "inter-token latency", "gaps")
    itl.set_yscale("symlog")  # the few long gaps are what it is looked at for
    edges, rates = tokens_per_second(result.successful)
    rate.stairs(rates, edges, fill=True)
    rate.set(xlabel="seconds", ylabel="tokens per second", title="generated tokens over time")
    figure.savefig(file, format="png", dpi=120)


def tokens_per_second(samples: list[Sample], bins: int = BINS) -> tuple[list[float], list[float]]:
    """Edges of equal intervals and the rate in each. Tokens that were not shown one by one count evenly by chunk."""
    arrived = [(at, s.output_tokens / len(s.token_times)) for s in samples for at in s.token_times]
    end = max((at for at, _ in arrived), default=1.0) or 1.0
    rates = [0.0] * bins
    for at, tokens in arrived:
        rates[min(int(at / end * bins), bins - 1)] += tokens * bins / end
    return [end * i / bins for i in range(bins + 1)], rates


def _line(axes: Axes, x: str, ys: dict[str, str], rows: tuple[Row, ...]) -> None:
    places = _numbers(rows, x)
    for key, label in ys.items():
        axes.plot(places, _numbers(rows, key), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:.0f}" for place in places])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _numbers(rows: tuple[Row, ...], key: str) -> list[float]:
    """What could not be measured is no number, and is not drawn."""
    return [math.nan if (value := row.figures()[key]) is None else value for row in rows]


def _histogram(axes: Axes, seconds: list[float], title: str, ylabel: str) -> None:
    axes.hist([s * 1e3 for s in seconds], bins=min(BINS, max(8, len(seconds) // 4)))
    axes.set(xlabel="ms", ylabel=ylabel, title=title)
