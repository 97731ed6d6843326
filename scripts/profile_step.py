"""Where a step's time goes, by operation: `python scripts/profile_step.py ENGINE [--prompt 512] [--batch 32]`.

For a prompt read in one step, and for steps of decoding: the seconds that the program's instructions took by its own
clock, meetings of all threads included, added up by the operation that a model called. Below them the machine's
ceilings, measured in the same run. For an engine of one rank.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from serving_bench.tables import markdown_table

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.config import EngineConfig
from llmserve.engine.native import NativeEngine
from llmserve.engine.offline import OfflineEngine
from llmserve.ops.cpu import load_kernels
from llmserve.ops.cpu.ceilings import peak, read_bandwidth
from llmserve.request import Request, SamplingParams

INSTRUCTIONS = {"attention": 2}
"""Of an operation; all others are one (csrc/program.cpp)."""
OPERATIONS = (
    "embedding", "angles", "norm", "convert", "gemm", "gated", "rope", "attention", "softcap", "choose", "gather",
    "experts_gated", "experts_down", "combine",
)  # fmt: skip
CONTEXT, STEPS = 128, 32


class Profiled:
    """An engine whose program notes what each of its instructions is of."""

    def __init__(self, path: Path, config: EngineConfig) -> None:
        kernels, self._names, programs = load_kernels(), list[str](), list[Any]()
        base: Any = kernels.Program

        class Noting(base):
            def __init__(self, *arguments: Any, **named: Any) -> None:
                super().__init__(*arguments, **named)
                programs.append(self)

        for name in OPERATIONS:
            setattr(Noting, name, self._noted(name, getattr(base, name)))
        with patch.object(kernels, "Program", Noting):
            self.engine: NativeEngine = OfflineEngine(path, config).engine
        self._program = programs[0]
        self._ids = 0

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self._names.extend([name] * INSTRUCTIONS.get(name, 1))
            return call(*arguments, **named)

        return noted

    def submit(self, count: int, prompt: int, new: int, vocab_size: int) -> None:
        for _ in range(count):
            self._ids += 1
            ids = random.Random(self._ids).choices(range(vocab_size), k=prompt)
            self.engine.submit(Request(self._ids, tuple(ids), SamplingParams(new, temperature=0)))

    def seconds(self, steps: int) -> Counter[str]:
        """Of the next steps, by operation; of all that there are with a negative number."""
        self._program.profile(True)
        before = list(self._program.seconds) or [0.0] * len(self._names)
        while steps and self.engine.has_work:
            self.engine.step()
            steps -= 1
        after = list(self._program.seconds)
        if len(after) != len(self._names):
            raise SystemExit(f"profile_step: {len(after)} instructions where {len(self._names)} were noted.")
        took: Counter[str] = Counter()
        for name, end, begin in zip(self._names, after, before, strict=True):
            took[name] += end - begin
        self._program.profile(False)
        return took

    def until_all_decode(self, count: int) -> None:
        """Steps, until each of `count` requests has a token."""
        heard: set[int] = set()
        while len(heard) < count:
            heard.update(event.request_id for event in self.engine.step())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="the fastest is told")
    return parser.parse_args()


def table(title: str, rounds: list[Counter[str]], steps: int) -> str:
    best = min(rounds, key=lambda took: took.total())
    rows = [
        [name, f"{1e3 * seconds / steps:.2f}", f"{seconds / best.total():.1%}"]
        for name, seconds in best.most_common()
        if seconds
    ]
    return markdown_table([title, "ms", "share"], [*rows, ["all", f"{1e3 * best.total() / steps:.2f}", ""]])


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]  # before this thread is bound to one of them
    manifest = EngineDir.open(options.engine).manifest
    config = EngineConfig(
        threads=options.threads, max_num_seqs=options.batch, max_num_batched_tokens=max(options.prompt, 2048),
        prefix_caching=False,
    )  # fmt: skip
    profiled, vocab = Profiled(options.engine, config), manifest.model.vocab_size
    prefills, decodes = [], []
    for _ in range(options.rounds):
        profiled.submit(1, options.prompt, 1, vocab)
        prefills.append(profiled.seconds(-1))
        profiled.submit(options.batch, CONTEXT, 2 * STEPS, vocab)
        profiled.until_all_decode(options.batch)
        decodes.append(profiled.seconds(STEPS))
        profiled.seconds(-1)
    print(table(f"a prompt of {options.prompt}", prefills, 1), end="\n\n")
    print(table(f"a step of {options.batch} sequences after {CONTEXT}", decodes, STEPS), end="\n\n")
    print(f"int8 products: {peak(cores, 's8') / 1e9:.0f} GOP/s; reading memory: {read_bandwidth(cores) / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
