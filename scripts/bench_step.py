"""How much of a step is not spent in kernels: `python scripts/bench_step.py ENGINE [--batch 1 16]`.

Drives an engine in this process and takes, for every step of decoding, the time of the step and of the one call into
the kernels within it. The rest is scheduling, encoding the plan, sampling and booking the tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

from llmserve.config import EngineConfig
from llmserve.engine.native import NativeEngine
from llmserve.engine.offline import OfflineEngine
from llmserve.request import Request, SamplingParams

PROMPT, NEW, WARM = 64, 96, 8


class Timed:
    """The runner, with the time of its last step."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.vocab_size = runner.vocab_size
        self.seconds = 0.0

    def execute(self, plan: Any) -> Any:
        started = time.perf_counter()
        logits = self._runner.execute(plan)
        self.seconds = time.perf_counter() - started
        return logits


def steps(engine: NativeEngine, timed: Timed, batch: int, first_id: int) -> list[tuple[float, float]]:
    """(seconds of a step, of those outside of the runner) of each step of decoding."""
    rng = random.Random(batch)
    sampling = SamplingParams(max_tokens=NEW, temperature=0)
    for i in range(batch):
        prompt = tuple(rng.randrange(timed.vocab_size) for _ in range(PROMPT))
        engine.submit(Request(first_id + i, prompt, sampling))
    taken = []
    while engine.has_work:
        started = time.perf_counter()
        engine.step()
        whole = time.perf_counter() - started
        taken.append((whole, whole - timed.seconds))
    return taken[WARM:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    engine = OfflineEngine(options.engine, EngineConfig(kv_cache_memory=512 << 20)).engine
    engine._runner = timed = Timed(engine._runner)
    print("| sequences | step, ms | outside of kernels, ms | share |\n|---|---|---|---|")
    for number, batch in enumerate(options.batch):
        taken = steps(engine, timed, batch, first_id=number * 10_000)
        whole, outside = (1e3 * statistics.median(values) for values in zip(*taken, strict=True))
        print(f"| {batch} | {whole:.2f} | {outside:.3f} | {outside / whole:.1%} |", flush=True)


if __name__ == "__main__":
    main()
