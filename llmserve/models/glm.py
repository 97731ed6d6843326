"""GLM-4 in transformers' own form (GLM Team 2024): half of each head turns, neighbours together."""

from __future__ import annotations

from typing import Any

from llmserve.config import ModelConfig
from llmserve.layers.mlp import MLPSources
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import fused_gated, llama_like

DEFAULTS = {"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True, "rms_norm_eps": 1.5625e-07}
"""Of transformers' GLM configurations, for config.json files that leave keys away."""


def glm_config(hf: HfConfig, family: str, **differences: Any) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS)
    bias = hf.get("attention_bias", bool)
    windows = hf.windows(None)
    return decoder_config(hf, family, windows=windows, turning=0.5, interleaved=True, qkv_bias=bias, **differences)


def read_config(hf: HfConfig) -> ModelConfig:
    return glm_config(hf, "glm")


def mlp(at: str, config: ModelConfig, layer: int) -> MLPSources:
    return fused_gated(f"{at}.mlp.gate_up_proj", f"{at}.mlp.down_proj", config)


FAMILY = Family(
    "glm",
    read_config,
    lambda config: llama_like(config, mlp=mlp),
    models="GLM-4-9B in transformers' form, GLM-Edge",
    checked="transformers' logits and greedy tokens",
)
