"""What choosing tokens costs: `python scripts/bench_sampling.py [--vocab 151936] [--rows 1 32] [--threads N]`.

Milliseconds for all rows of a step, by the CPU kernels on one thread and on all of a rank's, and by the sampler in
torch, the oracle, on as many. The logits are normal random numbers, which is flatter than a trained model's and thereby
hard on top_p: thousands of tokens are within it. The ways take turns, and medians are told.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from serving_bench.tables import markdown_table

from llmserve.ops.cpu import instruction_sets, load_kernels
from llmserve.request import SamplingParams
from llmserve.runtime.sampler import CpuSampler, Sampler, TorchSampler, Want

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 0.8": {"temperature": 0.8},
    "… and top_k 50": {"temperature": 0.8, "top_k": 50},
    "… and top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "… and min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "greedy, 5 log probabilities": {"temperature": 0, "logprobs": 5},
}
ROUNDS = 9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def timed(act: Callable[[], object]) -> float:
    """Of the second call: logits that were just computed are in the caches, as the first leaves them."""
    act()
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def line(name: str, rows: int, vocab: int, samplers: list[Sampler]) -> list[str]:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(rows))
    wants = [Want(SamplingParams(1, seed=seed, **WAYS[name]), 9) for seed in range(rows)]
    samples = [sampler.prepare(wants) for sampler in samplers]
    took = [[timed(lambda sample=sample: sample(logits)) for sample in samples] for _ in range(ROUNDS)]
    medians = [1e3 * statistics.median(column) for column in zip(*took, strict=True)]
    return [name, str(rows), *(f"{ms:.2f}" for ms in medians), f"{medians[-1] / medians[-2]:.0f}"]


def main() -> None:
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    isa = instruction_sets()[0].name
    torch.set_num_threads(options.threads)
    torch.rand(1 << 22).exp()  # has torch start its threads before the pool binds this one, which they would inherit
    pool = load_kernels().Pool(cores, options.threads)
    samplers: list[Sampler] = [CpuSampler(isa), CpuSampler(isa, pool), TorchSampler(torch.device("cpu"))]
    head = ["ms for all rows", "rows", "one thread", f"{options.threads} threads", "torch", "torch ÷ ours"]
    lines = [line(name, rows, options.vocab, samplers) for rows in options.rows for name in WAYS]
    print(markdown_table(head, lines))


if __name__ == "__main__":
    main()
