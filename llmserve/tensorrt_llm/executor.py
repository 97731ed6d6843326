"""The Executor of TensorRT-LLM's C++ runtime, made as this engine and its settings want it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.config import EngineConfig, TensorRTLLMFacts
from llmserve.errors import ConfigError

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm

FREE_MEMORY_FRACTION = 0.9
"""Of what is free on the GPU once the weights are there: the KV cache's share where --kv-cache-memory is not given."""

OURS = ("block_size", "kv_cache_dtype", "activations", "kernels", "overlap", "threads")
"""Settings of the native engine, which here are compiled in or TensorRT-LLM's own business."""


def check_settings(config: EngineConfig) -> None:
    """Raises ConfigError, which names a setting that this executor does not have."""
    for name in OURS:
        if getattr(config, name) != EngineConfig.model_fields[name].default:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for native engines only, and this is one of tensorrt-llm."
            )


def batch_size(facts: TensorRTLLMFacts, config: EngineConfig) -> int:
    return min(config.max_num_seqs, facts.max_batch_size)


def make_executor(folder: Path, facts: TensorRTLLMFacts, config: EngineConfig) -> trtllm.Executor:
    """On every rank, with the same arguments: it returns when all have made theirs.

    A step has as many tokens as were compiled in, or fewer where --max-num-batched-tokens says so.
    """
    from tensorrt_llm.bindings import executor as trtllm

    tokens = config.max_num_batched_tokens
    given = tokens != EngineConfig.model_fields["max_num_batched_tokens"].default
    return trtllm.Executor(
        str(folder),
        trtllm.ModelType.DECODER_ONLY,
        trtllm.ExecutorConfig(
            max_beam_width=1,
            max_batch_size=batch_size(facts, config),
            max_num_tokens=min(tokens, facts.max_num_tokens) if given else facts.max_num_tokens,
            batching_type=trtllm.BatchingType.INFLIGHT,
            kv_cache_config=trtllm.KvCacheConfig(
                enable_block_reuse=config.prefix_caching and facts.paged_context,
                free_gpu_memory_fraction=FREE_MEMORY_FRACTION,
                max_gpu_total_bytes=config.kv_cache_memory or 0,
            ),
            enable_chunked_context=facts.paged_context,
            normalize_log_probs=False,  # of the whole vocabulary, not of those that top_k and top_p leave
            parallel_config=trtllm.ParallelConfig(
                communication_type=trtllm.CommunicationType.MPI,
                communication_mode=trtllm.CommunicationMode.LEADER,
            ),
        ),
    )
