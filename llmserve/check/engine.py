"""An engine's logits, computed as `llmserve run` would on this machine, with a thread for each of its ranks."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.comm.threads import run_ranks
from llmserve.config import EngineConfig
from llmserve.runtime.load import device_of, load_runner, use_threads
from llmserve.scheduler.plan import Chunk, StepPlan


def engine_logits(engine: Path, prompts: list[tuple[int, ...]]) -> list[Tensor]:
    """Of every position of every prompt, [tokens, vocab_size] fp32. ConfigError or EngineDirError in one sentence."""
    directory = EngineDir.open(engine)
    longest = max(map(len, prompts))
    config = EngineConfig(max_num_seqs=1, max_num_batched_tokens=longest, max_model_len=max(2, longest))
    size = directory.manifest.tp_size
    cores = os.sched_getaffinity(0)

    def rank(comm: Comm) -> list[Tensor]:
        own = use_threads(None, cores, comm.rank, size)
        loaded = load_runner(directory, config, comm, device_of(directory.manifest, comm.rank), own)
        blocks = tuple(range(loaded.kv.num_blocks))
        of = loaded.kv.variants.of
        chunks = [Chunk(0, 0, 0, prompt, blocks, len(prompt), of(len(prompt), len(prompt))) for prompt in prompts]
        return [loaded.runner.execute(StepPlan.of([chunk])).clone() for chunk in chunks]

    return run_ranks(size, rank)[0]
