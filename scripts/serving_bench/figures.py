"""The figures, as PNG. matplotlib is loaded here only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving_bench.gaps import ChunkTime, Phases
from serving_bench.load import Outcome
from serving_bench.watch import Sample

COLORS = {"before": "#2c6fbb", "during": "#c0392b"}


def plot_stall(phases: Phases, chunk_tokens: int, alone: ChunkTime, title: str, file: Path) -> None:
    """The gaps' histogram, and each gap of the long prompt's time beside what its chunk takes alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    histogram, by_depth = figure.subplots(1, 2)
    gaps = {name: [gap.seconds * 1e3 for gap in getattr(phases, name)] for name in COLORS}
    for name, found in gaps.items():
        histogram.hist(found, bins=40, alpha=0.7, label=name, color=COLORS[name])
    histogram.set(xlabel="ms between two tokens of a stream", ylabel="gaps", yscale="symlog")
    histogram.legend(title="the long prompt")
    chunks = [gap for gap in phases.during if gap.chunk is not None]
    places = [gap.chunk * chunk_tokens for gap in chunks if gap.chunk is not None]
    by_depth.plot(places, [gap.seconds * 1e3 for gap in chunks], ".", color=COLORS["during"], label="gaps")
    ends = [0, max(places)]
    normal = max(gap.seconds * 1e3 for gap in (*phases.before, *phases.after))
    by_depth.plot(ends, [alone.at(place) * 1e3 for place in ends], "--", color="black", label="the chunk alone")
    bound = [alone.at(place) * 1e3 + normal for place in ends]
    by_depth.plot(ends, bound, "-", color="black", label="and the longest gap without it")
    by_depth.set(xlabel="tokens of the long prompt that were done", ylabel="ms")
    by_depth.set_ylim(bottom=0)
    by_depth.legend()
    figure.savefig(file, format="png", dpi=110)


def plot_overload(
    outcomes: Sequence[Outcome], samples: Sequence[Sample], max_queue: int, peak: float, title: str, file: Path
) -> None:
    """Over time: what became of requests, how many are there, the KV cache, memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    answers, requests, cache, memory = figure.subplots(4, 1, sharex=True)
    begin = samples[0].at
    ends = {
        "completed": per_second(o.ended - begin for o in outcomes if o.completed),
        "429": per_second(o.ended - begin for o in outcomes if o.status == 429),
    }
    for (name, rates), color in zip(ends.items(), COLORS.values(), strict=True):
        answers.plot(rates, label=name, color=color, linewidth=1)
    answers.axhline(peak, color="black", linestyle="--", label="peak")
    answers.set(ylabel="answers/s")
    at = [sample.at - begin for sample in samples]
    requests.plot(at, [sample.running for sample in samples], label="running", color=COLORS["before"])
    requests.plot(at, [sample.waiting for sample in samples], label="waiting", color=COLORS["during"])
    requests.axhline(max_queue, color="black", linestyle="--", label="--max-queue")
    requests.set(ylabel="requests")
    cache.plot(at, [sample.kv_usage * 100 for sample in samples], color=COLORS["before"])
    cache.set(ylabel="% of KV cache in use")
    memory.plot(at, [sample.rss / 2**20 for sample in samples], color=COLORS["before"])
    memory.set(ylabel="resident MiB", xlabel="seconds of overload")
    for axes in (answers, requests, cache, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in (answers, requests):
        axes.legend(fontsize=8, loc="upper right")
    figure.savefig(file, format="png", dpi=90)


def per_second(times: Iterable[float]) -> list[int]:
    """How many in each second, from the first on."""
    counts = Counter(int(at) for at in times)
    return [counts[second] for second in range(max(counts, default=0) + 1)]
