"""From an engine directory to a rank that can compute: device and threads, the shard taken strictly, the KV cache."""

from __future__ import annotations

import logging
import os

import torch

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.config import EngineConfig, Manifest
from llmserve.errors import ConfigError, EngineDirError
from llmserve.layers.layout import Env, make_layout
from llmserve.models import make_model
from llmserve.ops import choose
from llmserve.runtime.kv_cache import KVPlan, allocate, plan_kv_cache
from llmserve.runtime.model_runner import ModelRunner

log = logging.getLogger("llmserve.runtime")


def use_threads(wanted: int | None, cores: set[int], local_size: int) -> int:
    """Give this rank its threads, on any of `cores`; the ranks of a host share them unless --threads says otherwise."""
    os.sched_setaffinity(0, cores)
    threads = wanted or max(1, len(cores) // local_size)
    torch.set_num_threads(threads)
    return threads


def device_of(manifest: Manifest, local_rank: int) -> torch.device:
    if manifest.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineDirError("this engine was built for --device cuda and no GPU is usable here; build one for cpu.")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {local_rank} of this host has no GPU of its own ({torch.cuda.device_count()} are here); "
            "start at most one rank per GPU."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def load_runner(
    engine: EngineDir, config: EngineConfig, comm: Comm, device: torch.device
) -> tuple[ModelRunner, KVPlan]:
    """Raises ConfigError or EngineDirError in one sentence."""
    manifest = engine.manifest
    layout = make_layout(manifest.quant, manifest.group_size, manifest.dtype, comm.rank, comm.size)
    model = make_model(manifest.model, layout)
    kv_heads = layout.cut_kv_heads(manifest.model.num_kv_heads)
    heads_here = kv_heads[1] - kv_heads[0]
    kv = plan_kv_cache(config, manifest.model, heads_here, comm.size, layout.dtype)
    shard = engine.shard(comm.rank)
    for parameter in model.parameters():
        parameter.load(shard, device)
    if shard:
        raise EngineDirError(
            f"rank{comm.rank}.safetensors holds tensors this model has not: {', '.join(sorted(shard)[:3])}."
        )
    model.to(device)
    cache = allocate(kv, manifest.model, heads_here, layout.dtype, device)
    ops = choose(device)
    if comm.rank == 0:
        log.info("operations: %s", ops.name)
    return ModelRunner(model, Env(ops, comm), cache, kv, config.max_num_seqs), kv
