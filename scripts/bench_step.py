"""What rank 0 does around the kernels, and when: `python scripts/bench_step.py ENGINE [--batch 1 16] [--plot PNG]`.

Drives an engine in this process as the serving loop does, with the next step prepared while the kernels run
(`--overlap`, as by default) and without. For every step of decoding it takes the gap: from the end of one step's
kernels, by their own clock, to the start of the next one's. What is left in it with overlap is what needs the logits:
sampling, booking the tokens, and the last words of the plan. Both ways take turns, and medians are told. The figure
draws some consecutive steps of each.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmserve.config import EngineConfig
from llmserve.engine.messages import Events, encode
from llmserve.engine.native import NativeEngine
from llmserve.engine.offline import OfflineEngine
from llmserve.request import Request, SamplingParams, TokenEvent

PROMPT, NEW, WARM = 64, 96, 8
DRAWN = 4  # steps


@dataclass
class Span:
    name: str
    begin: float
    end: float


@dataclass
class Trace:
    """Of one run: rank 0's acts, and its kernels' times."""

    acts: list[Span] = field(default_factory=list)
    kernels: list[Span] = field(default_factory=list)

    def timed(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = time.monotonic()
            result = act(*arguments)
            self.acts.append(Span(name, begin, time.monotonic()))
            return result

        return call

    @property
    def gaps(self) -> list[float]:
        """Seconds between two steps' kernels, without the first steps and the last."""
        pairs = list(zip(self.kernels, self.kernels[1:], strict=False))
        return [after.begin - before.end for before, after in pairs[WARM:-1]]

    @property
    def steps(self) -> list[float]:
        """Seconds from one step's start to the next one's."""
        pairs = list(zip(self.kernels, self.kernels[1:], strict=False))
        return [after.begin - before.begin for before, after in pairs[WARM:-1]]


class Traced:
    """The runner, with the times of its steps."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.vocab_size = runner.vocab_size
        self.trace = Trace()

    def execute(self, plan: Any) -> Any:
        self.trace.kernels.append(Span("kernels", time.monotonic(), 0.0))
        logits = self._runner.execute(plan)
        self.trace.kernels[-1].end = self._runner._program.ended
        return logits

    def start(self, plan: Any) -> None:
        self.trace.kernels.append(Span("kernels", time.monotonic(), 0.0))
        self._runner.start(plan)

    def finish(self) -> Any:
        logits = self._runner.finish()
        self.trace.kernels[-1].end = self._runner._program.ended
        return logits


class Rank:
    """An engine whose acts are timed."""

    def __init__(self, engine: Path, overlap: bool, threads: int | None) -> None:
        config = EngineConfig(kv_cache_memory=512 << 20, overlap=overlap, threads=threads, prefix_caching=False)
        cores = os.sched_getaffinity(0)
        self.engine = OfflineEngine(engine, config).engine
        os.sched_setaffinity(0, cores)  # loading binds this thread, and the next rank is to have all cores, too
        self.runner = Traced(self.engine._runner)
        self.engine._runner = self.runner

    def run(self, batch: int, first_id: int) -> Trace:
        engine, trace = self.engine, Trace()
        self.runner.trace = trace
        self._submit(engine, batch, first_id)
        scheduler, sampler = engine._scheduler, engine._sampler
        plain = {"schedule": scheduler.schedule, "prepare": scheduler.prepare, "update": scheduler.update}
        ready = sampler.prepare
        for name, act in plain.items():
            setattr(scheduler, name, trace.timed(name, act))
        sampler.prepare = lambda wants: trace.timed("sample", trace.timed("ready to sample", ready)(wants))
        events: list[TokenEvent] = []
        report = trace.timed("send events", lambda: encode(Events(events)))
        while engine.has_work:
            events = engine.step(report)
        for name, act in plain.items():
            setattr(scheduler, name, act)
        sampler.prepare = ready
        return trace

    def _submit(self, engine: NativeEngine, batch: int, first_id: int) -> None:
        rng = random.Random(batch)
        sampling = SamplingParams(max_tokens=NEW, temperature=0)
        for i in range(batch):
            prompt = tuple(rng.randrange(self.runner.vocab_size) for _ in range(PROMPT))
            engine.submit(Request(first_id + i, prompt, sampling))


def plot(traces: dict[str, Trace], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ["schedule", "prepare", "ready to sample", "sample", "update", "send events"]
    colours = dict(zip(names, plt.colormaps["tab10"].colors, strict=False))
    figure, axes = plt.subplots(len(traces), 1, figsize=(11, 1.7 * len(traces)), sharex=True, layout="constrained")
    for axis, (title, trace) in zip(axes, traces.items(), strict=True):
        shown = trace.kernels[len(trace.kernels) // 2 :][:DRAWN]
        zero, end = shown[0].begin, shown[-1].end
        axis.broken_barh([(1e3 * (s.begin - zero), 1e3 * (s.end - s.begin)) for s in shown], (1, 0.8), color="0.6")
        for name in names:
            spans = [s for s in trace.acts if s.name == name and zero <= s.begin < end]
            bars = [(1e3 * (s.begin - zero), 1e3 * (s.end - s.begin)) for s in spans]
            axis.broken_barh(bars, (0, 0.8), color=colours[name], label=name)
        axis.set(yticks=[0.4, 1.4], yticklabels=["rank 0", "kernels"], title=title)
    axes[0].legend(ncols=len(names), fontsize=7, loc="upper center")
    axes[-1].set_xlabel("ms")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, help="of the kernels; default: all cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    threads = options.threads or len(os.sched_getaffinity(0))
    ways = {title: Rank(options.engine, on, options.threads) for title, on in (("after", False), ("overlap", True))}
    print(f"{threads} thread(s) for kernels\n")
    print("| sequences | gap, µs | with overlap | share of a step | with overlap | steps a second, with ÷ without |")
    print("|---|---|---|---|---|---|", flush=True)
    drawn: dict[str, Trace] = {}
    for number, batch in enumerate(options.batch):
        traces: dict[str, list[Trace]] = {title: [] for title in ways}
        for round in range(options.rounds):
            for title, rank in ways.items():
                traces[title].append(rank.run(batch, first_id=(number * options.rounds + round) * 10_000))
        gap = {title: statistics.median(g for t in ts for g in t.gaps) for title, ts in traces.items()}
        step = {title: statistics.median(s for t in ts for s in t.steps) for title, ts in traces.items()}
        told = (
            f"{1e6 * gap['after']:.0f}",
            f"{1e6 * gap['overlap']:.0f}",
            f"{gap['after'] / step['after']:.1%}",
            f"{gap['overlap'] / step['overlap']:.1%}",
            f"{step['after'] / step['overlap']:.3f}",
        )
        print(f"| {batch} | {' | '.join(told)} |", flush=True)
        drawn = {
            f"{batch} sequences, everything after the kernels": traces["after"][-1],
            f"{batch} sequences, overlapped": traces["overlap"][-1],
        }
    if options.plot:
        plot(drawn, options.plot)


if __name__ == "__main__":
    main()
