"""What a step of scheduling costs, and what that depends on: `python scripts/bench_scheduler.py [--plot FILE.png]`.

For 1 … 4096 running sequences, 0 … 100 000 waiting ones and 1 … 128 k tokens of context: microseconds of one step of
decoding, for planning it, for its words on the wire (both ways) and for booking what was sampled, as rank 0 does them.
Nothing is computed and nothing sampled. A case is one process's only work for the time it runs; cases take turns, and
the median of the rounds is told. Growth is told as a ratio within one round, so that a slow minute does not show.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from llmserve.request import Request, SamplingParams
from llmserve.scheduler import BlockPool, Sampled, Scheduler, StepPlan

BLOCK = 16
WARM = 32  # steps, two of a sequence's blocks
MEASURED = 64
MOST_CONTEXT = 1 << 17


@dataclass(frozen=True)
class Case:
    running: int
    waiting: int
    context: int  # tokens of each running sequence


@dataclass(frozen=True)
class Cost:
    """Microseconds of one step."""

    schedule: float
    encode: float
    decode: float
    update: float

    @property
    def whole(self) -> float:
        return self.schedule + self.encode + self.decode + self.update


SWEEPS = {
    "running sequences": [Case(n, 0, 512) for n in (1, 4, 16, 64, 256, 1024, 4096)],
    "waiting sequences": [Case(256, n, 512) for n in (0, 1000, 10_000, 100_000)],
    "tokens of context": [Case(64, 0, n) for n in (1024, 1, 8192, 32_768, MOST_CONTEXT)],
}


class Bench:
    """A scheduler in the middle of decoding."""

    def __init__(self, case: Case, rounds: int) -> None:
        self.case = case
        new = 2 + WARM + rounds * MEASURED
        self.scheduler = Scheduler(
            BlockPool(case.running * (1 + -(-(case.context + new) // BLOCK)) + 1, BLOCK),
            max_num_seqs=case.running,
            max_num_batched_tokens=case.running * (case.context + 1),  # all prompts in the first step
            max_model_len=2 * MOST_CONTEXT,
            max_prompt_logits=0,
        )
        sampling = SamplingParams(max_tokens=new, stop_token_ids=frozenset({1, 2}))
        for i in range(case.running):
            self.scheduler.add(Request(i, tuple(range(i, i + case.context)), sampling))
        self.sampled = [Sampled(7)] * case.running
        while any(len(seq.tokens) <= case.context for seq in self.scheduler._alive.values()):
            self._step()
        for i in range(case.waiting):
            self.scheduler.add(Request(case.running + i, (1, 2, 3), sampling))
        for _ in range(WARM):
            self._step()

    def _step(self) -> None:
        plan = self.scheduler.schedule()
        assert plan is not None
        self.scheduler.update(plan, self.sampled[: plan.num_logits])

    def measure(self) -> Cost:
        """The mean of MEASURED steps, in which every sequence fills and takes as many blocks as any other does."""
        scheduler, sampled, clock = self.scheduler, self.sampled, time.perf_counter
        spent = [0.0] * 4
        gc.collect()
        gc.disable()
        for _ in range(MEASURED):
            t0 = clock()
            plan = scheduler.schedule()
            t1 = clock()
            assert plan is not None
            sent = plan.words.tobytes()
            t2 = clock()
            words = plan.words[:0]
            words.frombytes(sent)
            StepPlan.decode(words)
            t3 = clock()
            scheduler.update(plan, sampled)
            t4 = clock()
            for i, seconds in enumerate((t1 - t0, t2 - t1, t3 - t2, t4 - t3)):
                spent[i] += seconds
        gc.enable()
        return Cost(*(1e6 * seconds / MEASURED for seconds in spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    results = {name: sweep(cases, options.rounds) for name, cases in SWEEPS.items()}
    for name, costs in results.items():
        print_table(name, costs)
    if options.json:
        told = {name: [asdict(case) | asdict(cost) for case, cost, _ in costs] for name, costs in results.items()}
        options.json.write_text(json.dumps(told, indent=1))
    if options.plot:
        plot(results, options.plot)


Measured = list[tuple[Case, Cost, float]]
"""With each case how its whole cost a sequence compares with the first case's, in the same round."""


def sweep(cases: list[Case], rounds: int) -> Measured:
    benches = [Bench(case, rounds) for case in cases]
    costs: list[list[Cost]] = [[] for _ in cases]
    for _ in range(rounds):
        for bench, own in zip(benches, costs, strict=True):
            own.append(bench.measure())
    measured = []
    for case, own in zip(cases, costs, strict=True):
        median = Cost(*(statistics.median(getattr(c, part) for c in own) for part in Cost.__dataclass_fields__))
        ratios = [
            (cost.whole / case.running) / (first.whole / cases[0].running)
            for cost, first in zip(own, costs[0], strict=True)
        ]
        measured.append((case, median, statistics.median(ratios)))
    return measured


def print_table(name: str, measured: Measured) -> None:
    print(f"\n| {name} | schedule | encode | decode | update | whole step, µs | µs a running sequence | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case, cost, ratio in measured:
        parts = " | ".join(f"{getattr(cost, part):.1f}" for part in Cost.__dataclass_fields__)
        print(f"| {value(name, case):,} | {parts} | {cost.whole:.1f} | {cost.whole / case.running:.2f} | {ratio:.2f} |")


def value(name: str, case: Case) -> int:
    return {"running sequences": case.running, "waiting sequences": case.waiting}.get(name, case.context)


def plot(results: dict[str, Measured], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(12, 3.5), sharey=True, layout="constrained")
    for axis, (name, measured) in zip(axes, results.items(), strict=True):
        x = [max(1, value(name, case)) for case, _, _ in measured]
        axis.plot(x, [cost.whole / case.running for case, cost, _ in measured], marker="o")
        axis.set(xscale="log", xlabel=name, ylim=(0, 5))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("µs a running sequence and step")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
