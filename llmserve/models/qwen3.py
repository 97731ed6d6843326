"""Qwen3, dense (Qwen Team 2025): a norm on each head's query and key, biases only where the config says."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config, llama_like_sources
from llmserve.models.qwen2 import DEFAULTS, sliding_windows


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS, head_dim=128)
    bias = hf.get("attention_bias", bool, False)
    return decoder_config(
        hf, "qwen3", qkv_bias=bias, o_bias=bias, mlp_bias=False, qk_norm=True, windows=sliding_windows(hf)
    )


FAMILY = Family("qwen3", read_config, llama_like_sources)
