"""The figures, as PNG. matplotlib is loaded here only."""

from __future__ import annotations

from pathlib import Path

from serving_bench.gaps import ChunkTime, Phases

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
    normal = max(gaps["before"])
    by_depth.plot(ends, [alone.at(place) * 1e3 for place in ends], "--", color="black", label="the chunk alone")
    bound = [alone.at(place) * 1e3 + normal for place in ends]
    by_depth.plot(ends, bound, "-", color="black", label="and the longest gap before")
    by_depth.set(xlabel="tokens of the long prompt that were done", ylabel="ms")
    by_depth.set_ylim(bottom=0)
    by_depth.legend()
    figure.savefig(file, format="png", dpi=110)
