"""Qwen3, dense (Qwen Team 2025): a norm on each head's query and key, biases only where the config says."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.qwen2 import DEFAULTS, sliding_windows
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS, head_dim=128)
    bias = hf.get("attention_bias", bool, False)
    return decoder_config(hf, "qwen3", windows=sliding_windows(hf), qkv_bias=bias, o_bias=bias, qk_norm=True)


FAMILY = Family(
    "qwen3",
    read_config,
    llama_like,
    models="Qwen3, dense",
    checked="transformers' logits and greedy tokens",
)
