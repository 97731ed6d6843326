"""Qwen1.5, 2 and 2.5 (Yang et al. 2024): Llama with biases on q, k and v."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import llama_like

DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
"""Of transformers' Qwen configurations, for config.json files that leave keys away."""


def sliding_windows(hf: HfConfig) -> tuple[int | None, ...]:
    """Qwen's windows are off unless `use_sliding_window`; then the layers from `max_window_layers` on have one."""
    if not hf.get("use_sliding_window", bool, False):
        return hf.windows(None)
    return hf.windows(hf.count("sliding_window", None), hf.get("max_window_layers", int))


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS)
    return decoder_config(hf, "qwen2", windows=sliding_windows(hf), qkv_bias=True)


FAMILY = Family(
    "qwen2",
    read_config,
    llama_like,
    models="Qwen1.5, Qwen2, Qwen2.5, QwQ",
    checked="transformers' logits and greedy tokens",
)
