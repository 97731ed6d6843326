"""From an engine directory to a rank that can compute: device and threads, the shard taken strictly, the KV cache."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.config import EngineConfig, Manifest, ModelConfig
from llmserve.errors import ConfigError, EngineDirError
from llmserve.layers.layout import Layout, make_layout
from llmserve.models import make_model
from llmserve.models.decoder import Decoder
from llmserve.ops import Ops
from llmserve.ops.cpu import InstructionSet, instruction_sets
from llmserve.ops.reference import ReferenceOps
from llmserve.runtime.kv_cache import (
    DTYPES,
    KVPlan,
    check_memory,
    kv_kind,
    plan_kv_cache,
    reference_layer_bytes,
    why_shorter,
)
from llmserve.runtime.model_runner import ModelRunner, Runner
from llmserve.runtime.sampler import Sampler, TorchSampler

log = logging.getLogger("llmserve.runtime")


@dataclass(frozen=True, slots=True)
class Loaded:
    runner: Runner
    sampler: Sampler
    kv: KVPlan


def use_threads(wanted: int | None, cores: set[int], local_rank: int, local_size: int) -> list[int]:
    """The cores for this rank's threads, one each: its share of `cores`, unless --threads asks for another number.

    Empty entries do not exist; where more threads are wanted than there are cores for them, cores are named twice.
    """
    os.sched_setaffinity(0, cores)
    threads = wanted or max(1, len(cores) // local_size)
    ordered = sorted(cores)
    torch.set_num_threads(threads)
    return [ordered[(local_rank * threads + i) % len(ordered)] for i in range(threads)]


def spares_a_core(device: torch.device, threads: int, local_size: int, cores: set[int]) -> bool:
    """Whether a core is left for a rank's own thread while all ranks of this host compute with `threads` each."""
    return device.type == "cuda" or threads * local_size < len(cores)


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


def choose_instruction_set(wanted: str, device: torch.device) -> InstructionSet | None:
    """What the CPU kernels will use; None: the reference operations. ConfigError where `wanted` cannot be had."""
    if device.type != "cpu" or wanted == "reference":
        return None
    try:
        sets = instruction_sets()
    except ImportError as e:
        if wanted != "auto":
            raise ConfigError(
                f"--kernels {wanted}: the CPU kernels are not installed ({e}); see `llmserve doctor`."
            ) from None
        return None
    named = {found.name: found for found in sets}
    if wanted != "auto" and wanted not in named:
        raise ConfigError(f"--kernels {wanted} is none of what this processor runs: {', '.join(named)}, reference.")
    return sets[0] if wanted == "auto" else named[wanted]


def load_runner(
    engine: EngineDir, config: EngineConfig, comm: Comm, device: torch.device, cores: list[int] | None = None
) -> Loaded:
    """`cores`: of this rank's threads. Raises ConfigError or EngineDirError in one sentence."""
    manifest = engine.manifest
    layout = make_layout(
        manifest.quant, manifest.head_quant, manifest.group_size, manifest.dtype, comm.rank, comm.size,
        manifest.zero_points,
    )  # fmt: skip
    model = make_model(manifest.model, layout)
    kv_heads = layout.cut_kv_heads(manifest.model.num_kv_heads)
    heads_here = kv_heads[1] - kv_heads[0]
    isa = choose_instruction_set(config.kernels, device)
    if isa is None:
        return _load_reference(engine, config, comm, device, layout, model, heads_here)
    from llmserve.runtime.load_cpu import load_cpu

    try:
        return load_cpu(engine, config, comm, layout, model, heads_here, isa, cores or [])
    except MemoryError:
        raise ConfigError(
            "the system does not give this process the memory it asks for; lower --kv-cache-memory or "
            "--max-num-batched-tokens, or raise the limit (ulimit -v)."
        ) from None


def take_shard(engine: EngineDir, model: Decoder, rank: int, ops: Ops) -> None:
    shard = engine.shard(rank)
    for parameter in model.parameters():
        parameter.load(shard, ops)
    if shard:
        raise EngineDirError(
            f"rank{rank}.safetensors holds tensors this model has not: {', '.join(sorted(shard)[:3])}."
        )


def announce(comm: Comm, ops: Ops, sampler: Sampler, kv: KVPlan, config: EngineConfig, model: ModelConfig) -> None:
    if comm.rank == 0:
        if (shorter := why_shorter(kv, config, model)) is not None:
            log.warning("%s", shorter)
        log.info("operations: %s; sampling: %s; KV cache: %s", ops.name, sampler.name, kv.kind)


def _load_reference(
    engine: EngineDir,
    config: EngineConfig,
    comm: Comm,
    device: torch.device,
    layout: Layout,
    model: Decoder,
    kv_heads: int,
) -> Loaded:
    kind = kv_kind(config, layout.dtype)
    missing = device.type == "cpu" and config.kernels == "auto"
    if kind == "int8" or config.activations not in ("auto", "float32"):
        flag = "--kv-cache-dtype int8" if kind == "int8" else f"--activations {config.activations}"
        why = "which are not installed; see `llmserve doctor`" if missing else "not for the reference operations"
        raise ConfigError(f"{flag} is for the CPU kernels, {why}.")
    if missing and comm.rank == 0:
        log.warning("the CPU kernels are not installed: running on slow reference operations; see `llmserve doctor`")
    shape = model.config
    layer_bytes = reference_layer_bytes(kind, config.block_size, kv_heads, shape.head_dim)
    kv = plan_kv_cache(config, shape, kind, comm.size, layer_bytes)
    ops = ReferenceOps(device, comm.all_reduce)
    take_shard(engine, model, comm.rank, ops)
    if device.type == "cpu":
        check_memory(kv, ranks=1)
    cache = torch.empty(
        (shape.num_layers, 2, kv.num_blocks, kv.block_size, kv_heads, shape.head_dim), dtype=DTYPES[kind], device=device
    )
    sampler = TorchSampler(device)
    announce(comm, ops, sampler, kv, config, shape)
    return Loaded(ModelRunner(model, ops, comm, cache, kv, config.max_num_seqs), sampler, kv)
