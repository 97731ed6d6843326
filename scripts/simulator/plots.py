"""The figures, as PNG. matplotlib is loaded when this is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.agreement import Pair
from simulator.outcome import Outcome, tpot, ttft, waiting
from simulator.policy import Policy
from simulator.simulate import Run
from simulator.sweep import Curves
from simulator.workload import Floats, Trace

COLORS = {"static": "#7f7f7f", "continuous": "#2c6fbb", "chunked": "#d08a1d", "cached": "#c0392b"}
DPI = 80
DRAWN = 1500
"""Points of a line at most."""

PANELS: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
    ("median TPOT, ms", lambda o: 1e3 * o.tpot.p50),
    ("p99 TPOT, ms", lambda o: 1e3 * o.tpot.p99),
    ("median TTFT, s", lambda o: o.ttft.p50),
    ("p99 TTFT, s", lambda o: o.ttft.p99),
)


def plot_sweep(curves: Curves, chosen: Sequence[Policy], title: str, file: Path) -> None:
    """Latency over throughput; a point is a request rate."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, (label, latency) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for policy in chosen:
            outcomes = [point.outcome for point in curves[policy.name]]
            axes.plot(
                [o.throughput for o in outcomes], [latency(o) for o in outcomes],
                marker="o", markersize=4, color=COLORS[policy.name], label=policy.label,
            )  # fmt: skip
        axes.set(xlabel="generated tokens/s", ylabel=label, yscale="log")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(file, format="png", dpi=DPI)


def plot_latencies(runs: Sequence[Run], title: str, file: Path) -> None:
    """Which share of requests had at most that."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    for run in runs:
        _distribution(left, ttft(run), run.policy)
        _distribution(right, 1e3 * tpot(run), run.policy)
    left.set(xlabel="time to first token, s", ylabel="share of requests", xscale="log")
    right.set(xlabel="time per output token, ms", xscale="log")
    for axes in (left, right):
        axes.axhline(0.5, color="black", alpha=0.2)
        axes.axhline(0.99, color="black", alpha=0.2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(file, format="png", dpi=DPI)


def plot_timeline(runs: Sequence[Run], title: str, file: Path) -> None:
    """KV use, running and waiting requests, policy by policy."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle(title, fontsize=10)
    kv, running, queue = figure.subplots(3, 1, sharex=True)
    for run in runs:
        ends = np.frombuffer(run.steps.ends)
        some = slice(None, None, max(1, len(ends) // DRAWN))
        style = {"color": COLORS[run.policy.name], "linewidth": 0.8, "drawstyle": "steps-pre"}
        preempted = f", {run.preemptions} preemptions" if run.preemptions else ""
        kv.plot(ends[some], 100 * np.frombuffer(run.steps.kv_usage)[some], label=run.policy.label + preempted, **style)
        running.plot(ends[some], np.frombuffer(run.steps.running, np.int32)[some], **style)
        queue.plot(ends[some], waiting(run, ends[some]), **style)
    last = max(float(run.trace.arrivals[-1]) for run in runs)
    kv.set(ylabel="KV cache in use, %", ylim=(0, 102), xlim=(0, 1.05 * last if last else None))
    running.set(ylabel="running sequences")
    queue.set(ylabel="without a first token", xlabel="simulated seconds, while requests arrive", yscale="symlog")
    queue.set_ylim(bottom=0)
    for axes in (kv, running, queue):
        axes.grid(alpha=0.3)
    kv.legend(fontsize=8)
    figure.savefig(file, format="png", dpi=DPI)


def plot_workload(trace: Trace, file: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    lengths, arrivals = figure.subplots(1, 2)
    edges = np.geomspace(1, max(trace.prompts.max(), trace.outputs.max()) + 1, 60)
    for values, label in ((trace.prompts, "tokens of a prompt"), (trace.outputs, "new tokens")):
        lengths.hist(values, bins=edges, alpha=0.6, label=f"{label}, mean {values.mean():.0f}")
    lengths.set(xscale="log", xlabel="tokens", ylabel="requests")
    lengths.legend(fontsize=8)
    seconds = max(1.0, float(trace.arrivals[-1]))
    counts, bins = np.histogram(trace.arrivals, bins=200, range=(0, seconds))
    arrivals.stairs(counts * 200 / seconds, bins, fill=True)
    arrivals.set(xlabel="seconds", ylabel="requests/s")
    figure.savefig(file, format="png", dpi=DPI)


def plot_validation(pairs: Sequence[Pair], title: str, file: Path) -> None:
    """TTFT of all rounds, real and simulated, load by load."""
    loads = list(dict.fromkeys(pair.arrivals for pair in pairs))
    figure = Figure(figsize=(4 * len(loads), 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, load in zip(figure.subplots(1, len(loads), squeeze=False).flat, loads, strict=True):
        for pair in (pair for pair in pairs if pair.arrivals == load):
            axes.plot(*_shares(1e3 * pair.real.ttft), color="#2c6fbb", alpha=0.7)
            axes.plot(*_shares(1e3 * pair.simulated.ttft), color="#c0392b", alpha=0.7, linestyle="--")
        axes.plot([], [], color="#2c6fbb", label="real")
        axes.plot([], [], color="#c0392b", linestyle="--", label="simulated")
        axes.set_title(str(load), fontsize=9)
        axes.set(xlabel="TTFT, ms", ylabel="share of requests", xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(file, format="png", dpi=DPI)


def _distribution(axes: Axes, values: Floats, policy: Policy) -> None:
    axes.plot(*_shares(values), color=COLORS[policy.name], label=policy.label)


def _shares(values: Floats) -> tuple[Floats, Floats]:
    """(value, the share of values up to it), thinned."""
    shares = np.linspace(0, 1, min(DRAWN, len(values)))
    return np.quantile(values, shares), shares
