"""The physical KV cache of one rank: how many blocks there are, and the memory they lie in. Who owns them is the block
pool's business (Kwon et al. 2023, PagedAttention)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llmserve.config import EngineConfig, ModelConfig, RopeVariants, size_text
from llmserve.errors import ConfigError

KVKind = Literal["float32", "bfloat16", "int8"]
DTYPES: dict[KVKind, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

DEFAULT_TOTAL = 4 << 30
"""Without --kv-cache-memory the ranks of an engine share this many bytes, or less where less can be of use."""


@dataclass(frozen=True, slots=True)
class KVPlan:
    """Sizes, the same on every rank."""

    kind: KVKind
    num_blocks: int
    block_size: int  # tokens
    block_bytes: int  # on each rank, keys and values of all layers
    max_model_len: int
    variants: RopeVariants  # by which the keys are rotated

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size


def kv_kind(config: EngineConfig, dtype: torch.dtype) -> KVKind:
    """What keys and values are kept as. auto: fp32 in a fp32 engine, else bf16, which has fp32's range."""
    if config.kv_cache_dtype == "auto":
        return "float32" if dtype == torch.float32 else "bfloat16"
    return config.kv_cache_dtype


def reference_layer_bytes(kind: KVKind, block_size: int, kv_heads: int, head_dim: int) -> int:
    """Bytes of a block of one layer on one rank, as the reference operations keep it: [2, block_size, kv_heads, D]."""
    return 2 * block_size * kv_heads * head_dim * DTYPES[kind].itemsize


def plan_kv_cache(config: EngineConfig, model: ModelConfig, kind: KVKind, tp_size: int, layer_bytes: int) -> KVPlan:
    """`layer_bytes`: of a block of one layer on one rank. ConfigError where what is asked for cannot be."""
    size = config.block_size
    block_bytes = model.num_layers * layer_bytes
    longest = config.longest(model)
    useful = config.max_num_seqs * -(-longest // size)
    memory = config.kv_cache_memory
    share = DEFAULT_TOTAL // tp_size
    num_blocks = min(share // block_bytes, useful) if memory is None else memory // block_bytes
    if num_blocks < 1:
        default = f"the default, {size_text(share)} per rank,"
        given = default if memory is None else f"--kv-cache-memory {size_text(memory)}"
        raise ConfigError(
            f"{given} is less than one block of {size} tokens takes ({size_text(block_bytes)}); "
            "raise --kv-cache-memory or lower --block-size."
        )
    tokens = num_blocks * size
    if config.max_model_len is not None and longest > tokens:
        raise ConfigError(
            f"the KV cache holds {tokens} tokens, less than --max-model-len {longest}; raise --kv-cache-memory to at "
            f"least {size_text(-(-longest // size) * block_bytes)} per rank, or lower --max-model-len to {tokens}."
        )
    variants = model.rope.variants(model.max_position)
    return KVPlan(kind, num_blocks, size, block_bytes, min(longest, tokens), variants)


def why_shorter(plan: KVPlan, config: EngineConfig, model: ModelConfig) -> str | None:
    """The sentence where memory, and no --max-model-len, keeps sequences shorter than the model takes; else None."""
    if config.max_model_len is not None or plan.max_model_len == model.max_position:
        return None
    needed = -(-model.max_position // plan.block_size) * plan.block_bytes
    return (
        f"the KV cache of {plan.num_blocks * plan.block_bytes / 2**20:.0f} MiB per rank holds {plan.num_tokens} "
        f"tokens, so no sequence may be longer, though the model takes {model.max_position}; start with "
        f"--kv-cache-memory {-(-needed >> 20)}MiB for these, or with --max-model-len {plan.max_model_len} if that is "
        "enough."
    )


def check_memory(plan: KVPlan, ranks: int) -> None:
    """ConfigError where memory cannot hold the caches of this host's `ranks`. Pages are taken as they are used."""
    needed = plan.num_blocks * plan.block_bytes
    if ranks * needed > (free := available_memory()):
        raise ConfigError(
            f"the KV cache needs {needed / 2**30:.1f} GiB per rank but only {free / 2**30:.1f} GiB of memory are free "
            f"for {ranks}; lower --kv-cache-memory, --max-num-seqs or --max-model-len."
        )


def available_memory() -> int:
    """Bytes this process may still take: what the kernel thinks is free, within the cgroup's limit if there is one."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(meminfo["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free
