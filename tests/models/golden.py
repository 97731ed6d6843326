"""Running a golden checkpoint: the same work at any tensor-parallel size, so that its results can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.config import EngineConfig
from llmserve.engine.native import NativeEngine, worker_loop
from llmserve.request import Request, SamplingParams
from llmserve.runtime.load import device_of, load_runner
from tests.forward import Forward

FAMILIES = (
    "chatglm2", "chatglm3", "gemma2", "glm", "glm4", "gpt2", "llama", "llama3-rope-scaling", "mistral", "mixtral",
    "phi3", "qwen1", "qwen1-ntk-logn", "qwen2", "qwen2-moe", "qwen2-tied", "qwen3", "qwen3-moe",
)  # fmt: skip


class Golden(NamedTuple):
    """What transformers answered. `logits[i]`: of prompt i in one forward, then of each greedy token over the cache."""

    prompts: list[list[int]]
    greedy: list[list[int]]
    logits: list[Tensor]

    @staticmethod
    def read(folder: Path) -> Golden:
        told = json.loads((folder / "golden.json").read_text())
        tensors = load_file(folder / "golden.safetensors")
        count = len(told["prompts"])
        rows = [torch.cat((tensors[f"prefill.{i}"], tensors[f"step.{i}"])) for i in range(count)]
        return Golden(told["prompts"], told["greedy"], rows)


def greedy(engine: Path, golden: Golden, comm: Comm, kernels: str = "auto") -> list[list[int]]:
    """All prompts at once through the whole engine; ranks but 0 follow, and return nothing."""
    directory = EngineDir.open(engine)
    config = EngineConfig(block_size=4 if kernels == "reference" else 16, max_num_batched_tokens=48, kernels=kernels)
    loaded = load_runner(directory, config, comm, device_of(directory.manifest, 0))
    if comm.rank:
        worker_loop(comm, loaded.runner)
        return []
    native = NativeEngine(loaded, comm, config)
    answers: list[list[int]] = [[] for _ in golden.prompts]
    for i, (prompt, answer) in enumerate(zip(golden.prompts, golden.greedy, strict=True)):
        native.submit(Request(i, tuple(prompt), SamplingParams(max_tokens=len(answer), temperature=0)))
    while native.has_work:
        for event in native.step():
            assert event.token is not None, event
            answers[event.request_id].append(event.token)
    native.close()
    return answers


def logits(engine: Path, golden: Golden, comm: Comm, kernels: str = "auto", **config: object) -> list[Tensor]:
    """As `Golden.logits`, on every rank. `config`: of the engine."""
    config = {"block_size": 4 if kernels == "reference" else 16, "kernels": kernels, **config}
    return [
        Forward(engine, comm, **config).prefill_and_steps(prompt, answer)
        for prompt, answer in zip(golden.prompts, golden.greedy, strict=True)
    ]
