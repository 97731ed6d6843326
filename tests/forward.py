"""A model driven by hand-made plans: logits of any position, without scheduler, sampler or requests."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.comm.solo import SoloComm
from llmserve.config import EngineConfig
from llmserve.runtime.load import load_runner
from llmserve.scheduler.plan import Chunk, StepPlan


class Forward:
    """One sequence on one rank. Its blocks are scattered over the cache, as they are after hours of serving."""

    def __init__(self, engine: Path, comm: Comm | None = None, *, block_size: int = 16, **config: object) -> None:
        """`config`: of the engine. The kernels take blocks of any multiple of 16, the reference of any size."""
        chosen = EngineConfig(max_num_seqs=1, block_size=block_size, **config)
        loaded = load_runner(EngineDir.open(engine), chosen, comm or SoloComm(), torch.device("cpu"))
        self._runner = loaded.runner
        self._blocks = tuple(random.Random(0).sample(range(loaded.kv.num_blocks), loaded.kv.num_blocks))
        self._variants = loaded.kv.variants
        self._computed = self._variant = 0

    def logits(self, tokens: list[int]) -> Tensor:
        """Of each of the sequence's next `tokens`: [tokens, vocabulary]."""
        if not self._computed:  # the sequence begins, and turns by what its prompt says
            self._variant = self._variants.of(len(tokens), len(tokens))
        return self._step(tokens, len(tokens))

    def _step(self, tokens: list[int], logits: int) -> Tensor:
        chunk = Chunk(0, self._computed, 0, tuple(tokens), self._blocks, logits, self._variant)
        self._computed += len(tokens)
        return self._runner.execute(StepPlan.of([chunk])).clone()

    def prefill_and_steps(self, prompt: list[int], steps: list[int]) -> Tensor:
        """[prompt + steps, vocabulary]: the prompt in one chunk, then one token at a time."""
        return torch.cat([self.logits(prompt), *(self.logits([token]) for token in steps)])

    def served(self, prompt: list[int], steps: list[int]) -> Tensor:
        """[1 + steps, vocabulary]: the prompt's last, after chunks of ten of which nothing is wanted; one at a time."""
        self._variant = self._variants.of(len(prompt), len(prompt))
        for start in range(0, len(prompt) - 1, 10):
            assert not len(self._step(prompt[start : min(start + 10, len(prompt) - 1)], 0))
        return torch.cat([self.logits([token]) for token in (prompt[-1], *steps)])


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the range of what was expected."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))
