"""What is asked for: how an engine is to be built and what it is to serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmserve.config import BuildConfig, EngineConfig

Backend = Literal["native", "tensorrt-llm"]
BACKENDS: tuple[Backend, ...] = ("native", "tensorrt-llm")


@dataclass(frozen=True, slots=True)
class Wish:
    """Of TensorRT-LLM, `engine`'s max_num_seqs, max_num_batched_tokens and max_model_len are what its builder calls
    max_batch_size, max_num_tokens and max_seq_len."""

    backend: Backend
    build: BuildConfig
    engine: EngineConfig
    utilization: float  # the share of a machine's memory that may be used
    length_told: str = "--max-model-len {}"  # how whoever asked wrote max_model_len
