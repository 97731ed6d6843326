"""The sections of the benchmark: which subjects are asked what."""

from __future__ import annotations

from dataclasses import dataclass

from cpu_bench.subjects import Point


@dataclass(frozen=True)
class Metric:
    name: str  # a key of the measured values
    label: str
    unit: str
    scale: float = 1  # from the measured value to the unit
    less_is_better: bool = False


METRICS: dict[str, tuple[Metric, ...]] = {
    "decode": (Metric("decode", "decode", "tokens/s"),),
    "prefill": (Metric("prefill", "prefill", "tokens/s"),),
    "batch": (Metric("decode", "decode, all sequences", "tokens/s"), Metric("total", "generated in all", "tokens/s")),
    "load": (
        Metric("first_token", "from starting the process to the first token", "s", less_is_better=True),
        Metric("load", "of which loading the model", "s", less_is_better=True),
        Metric("peak_memory", "peak resident memory", "MB", 1e-6, less_is_better=True),
    ),
}
"""By a point's measure."""


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    axis: str  # what its points differ in
    formats: tuple[str, ...]
    points: tuple[Point, ...]
    share_of_rounds: float = 1
    peers: bool = True  # False: ours alone, with one rank and with two


SECTIONS = {
    s.name: s
    for s in (
        Section(
            "decode",
            "Decoding one sequence",
            "",
            ("int8", "int4", "int4-pure", "bf16"),
            (Point("decode", prompt=128, new=128),),
        ),
        Section(
            "prefill",
            "Prefill",
            "prompt tokens",
            ("int8", "int4"),
            tuple(Point("prefill", prompt=n) for n in (128, 512, 2048)),
        ),
        Section(
            "batch",
            "Batches, prompts of 128 tokens",
            "sequences",
            ("int8", "int4"),
            tuple(Point("batch", prompt=128, new=64, batch=n) for n in (1, 2, 4, 8, 16, 32)),
        ),
        Section(
            "context",
            "Decoding one sequence in a long context",
            "tokens of context",
            ("int4",),
            tuple(Point("decode", prompt=n, new=32) for n in (512, 2048, 8192, 16384)),
            share_of_rounds=0.5,
        ),
        Section("load", "Cold start", "", ("int8", "int4"), (Point("load"),)),
        Section(
            "tp",
            "One rank on all cores, two ranks sharing them",
            "",
            ("int8", "int4"),
            (
                Point("decode", prompt=128, new=128),
                Point("prefill", prompt=512),
                Point("batch", prompt=128, new=64, batch=8),
            ),
            peers=False,
        ),
    )
}


def describe(point: Point) -> str:
    if point.measure == "decode":
        return f"{point.new} tokens after {point.prompt}"
    if point.measure == "prefill":
        return f"prompt of {point.prompt}"
    if point.measure == "batch":
        return f"{point.batch} sequence{'s' if point.batch > 1 else ''}"
    return "start"


def position(point: Point) -> int:
    """Where a point lies on its section's axis."""
    return point.batch if point.measure == "batch" else point.prompt
