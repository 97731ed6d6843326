"""What rounding activations on the fly does to logits: `python scripts/eval_activations.py [CHECKPOINT ...]`.

For each checkpoint (the demo, if none is given) and each quantisation, the logits of a few prompts under every kind of
activations, against fp32 activations times the same dequantised weights in the reference operations: relative L2 error,
the largest over the prompts, and how often the likeliest token is the same. Prompts are those of a golden.json beside
the weights, else random token ids.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.source import Checkpoint
from llmserve.comm.solo import SoloComm
from llmserve.config import BuildConfig, EngineConfig
from llmserve.runtime.load import load_runner
from llmserve.scheduler.plan import Chunk, StepPlan

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEMES = {"int8": {"quant": "int8"}, "int4 g32": {"quant": "int4", "group_size": 32}}
ACTIVATIONS = ("int8", "bfloat16", "float32")


class Error(NamedTuple):
    relative: float
    same_choice: float


def prompts_of(checkpoint: Path, vocab_size: int) -> list[list[int]]:
    golden = checkpoint / "golden.json"
    if golden.exists():
        return json.loads(golden.read_text())["prompts"]
    rng = random.Random(0)
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in (16, 48, 96, 128)]


def logits(engine: Path, prompts: list[list[int]], **config: str) -> list[Tensor]:
    """Of every position of every prompt."""
    settings = EngineConfig(max_num_seqs=1, **config)
    loaded = load_runner(EngineDir.open(engine), settings, SoloComm(), torch.device("cpu"), [])
    blocks = tuple(range(loaded.kv.num_blocks))
    plans = [StepPlan.of([Chunk(0, 0, 0, tuple(p), blocks, len(p))]) for p in prompts]
    return [loaded.runner.execute(plan).clone() for plan in plans]


def error(ours: list[Tensor], exact: list[Tensor]) -> Error:
    relative = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True))
    same = torch.cat([a.argmax(1) == b.argmax(1) for a, b in zip(ours, exact, strict=True)])
    return Error(relative, float(same.float().mean()))


def measure(checkpoint: Path) -> dict[str, dict[str, Error]]:
    """scheme → activations → error."""
    results: dict[str, dict[str, Error]] = {}
    for scheme, settings in SCHEMES.items():
        with tempfile.TemporaryDirectory(prefix="eval-activations-") as folder:
            engine = Path(folder) / "engine"
            report = build_engine(Checkpoint.open(str(checkpoint)), engine, BuildConfig(dtype="float32", **settings))
            prompts = prompts_of(checkpoint, report.manifest.model.vocab_size)
            exact = logits(engine, prompts, kernels="reference")
            results[scheme] = {kind: error(logits(engine, prompts, activations=kind), exact) for kind in ACTIVATIONS}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=[REPOSITORY / "llmserve" / "demo"])
    print("| checkpoint | weights | " + " | ".join(f"{kind} activations" for kind in ACTIVATIONS) + " |")
    print("|---|---|" + "---|" * len(ACTIVATIONS))
    for checkpoint in parser.parse_args().checkpoints:
        for scheme, errors in measure(checkpoint).items():
            cells = (f"{100 * e.relative:.3f} %, same choice {100 * e.same_choice:.1f} %" for e in errors.values())
            print(f"| {checkpoint.name} | {scheme} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
