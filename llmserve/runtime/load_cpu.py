"""A rank on the CPU kernels: its threads, its shard recorded into a program, its KV cache, its line to the others."""

from __future__ import annotations

import logging
from typing import Any

import torch

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.config import EngineConfig
from llmserve.errors import ConfigError
from llmserve.layers.layout import Layout
from llmserve.models.decoder import Decoder
from llmserve.ops.cpu import InstructionSet, load_kernels
from llmserve.ops.cpu.recorder import Recorder
from llmserve.ops.cpu.shared import SharedArea
from llmserve.ops.cpu.team import form_team
from llmserve.runtime.cpu_runner import CpuRunner, floats
from llmserve.runtime.kv_cache import KVKind, check_memory, kv_kind, plan_kv_cache
from llmserve.runtime.load import Loaded, announce, take_shard
from llmserve.runtime.sampler import CpuSampler

log = logging.getLogger("llmserve.runtime")

TILE = 16
"""Positions that lie side by side in the cache (csrc/kv_cache.hpp)."""

MAX_HEAD_DIM = 256

KINDS: dict[KVKind, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "s8"}


def block_layer_bytes(kind: KVKind, block_size: int, kv_heads: int, head_dim: int) -> int:
    """Bytes of a block of one layer on one rank, as the kernels keep it. ConfigError where they cannot."""
    if block_size % TILE:
        raise ConfigError(f"--block-size {block_size} is not a multiple of {TILE}, as the CPU kernels need it.")
    if head_dim > MAX_HEAD_DIM:
        raise ConfigError(
            f"the model's heads have {head_dim} dimensions, more than the {MAX_HEAD_DIM} of the CPU kernels; "
            "start with --kernels reference."
        )
    return load_kernels().kv_block_bytes(KINDS[kind], block_size, kv_heads, head_dim)


def load_cpu(
    engine: EngineDir,
    config: EngineConfig,
    comm: Comm,
    layout: Layout,
    model: Decoder,
    kv_heads: int,
    isa: InstructionSet,
    cores: list[int],
) -> Loaded:
    """`cores`: one for each thread. Raises ConfigError or EngineDirError in one sentence."""
    shape, kernels = model.config, load_kernels()
    kind = kv_kind(config, layout.dtype)
    block = block_layer_bytes(kind, config.block_size, kv_heads, shape.head_dim)
    kv = plan_kv_cache(config, shape, kind, comm.size, block)

    most = max(config.max_num_batched_tokens, config.max_num_seqs)
    shared = SharedArea(most, shape.hidden_size, model.head.weight.num_rows * comm.size)
    team = _team(kernels, comm, shared)
    check_memory(kv, comm.size if team else 1)  # after the ranks have talked, for it may fail on one of them alone
    # Threads of torch would only be in the way: what it is still asked to do is small.
    torch.set_num_threads(1)
    pool = _pool(kernels, cores)
    program = kernels.Program(
        pool, isa.name, max_tokens=most, rows=config.max_num_seqs,
        columns=-(-kv.max_model_len // kv.block_size), num_blocks=kv.num_blocks, block_size=kv.block_size,
        vocab_size=shape.vocab_size, variants=1 + len(kv.variants.lengths), team=team,
    )  # fmt: skip
    recorder = Recorder(program, isa, config.activations, most, team, shared, comm.rank, comm.size)
    take_shard(engine, model, comm.rank, recorder)

    base = program.buffer(kv.num_blocks * kv.block_bytes + 64, huge=True)
    base += -base % 64
    caches = [
        kernels.kv_cache(
            KINDS[kind], base + layer * kv.num_blocks * block, block, kv.block_size, kv_heads, shape.head_dim
        )
        for layer in range(shape.num_layers)
    ]
    share = model.head.weight.num_rows
    width = share * (comm.size if team else 1)
    start = team.area(0) + shared.logits if team else program.buffer(most * width * 4)
    logits, hidden = model.forward(caches, recorder)
    hidden_at = recorder.lower(logits, hidden, start + (comm.rank * share * 4 if team else 0), width)
    runner = CpuRunner(
        program,
        floats(start, width)(most),
        hidden_at,
        recorder.sums,
        None if team or comm.size == 1 else comm,
        team,
        shape.vocab_size,
        shape.hidden_size,
        [recorder, model],
    )
    sampler = CpuSampler(isa.name, pool)
    announce(comm, recorder, sampler, kv, config, shape)
    return Loaded(runner, sampler, kv)


def _pool(kernels: Any, cores: list[int]) -> Any:
    """A thread for each of `cores`, bound to it unless several are to share one."""
    try:
        return kernels.Pool(cores if len(set(cores)) == len(cores) else [], max(1, len(cores)))
    except RuntimeError as e:
        raise ConfigError(f"{e}; lower --threads.") from None


def _team(kernels: Any, comm: Comm, shared: SharedArea) -> Any | None:
    """Shared memory of all ranks, where they share a host."""
    if comm.size == 1:
        return None
    team, why = form_team(kernels.Team, comm.rank, comm.size, shared.bytes, comm.all_gather_text)
    if team is None and comm.rank == 0:
        log.info("the ranks add up over MPI, as they share no memory: %s", why)
    return team
