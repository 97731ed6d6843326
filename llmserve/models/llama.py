"""Llama 2 and 3 (Touvron et al. 2023; Llama Team 2024)."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf.require("sliding_window")
    bias = hf.get("attention_bias", bool, False)
    mlp_bias = hf.get("mlp_bias", bool, False)
    return decoder_config(hf, "llama", windows=hf.windows(None), qkv_bias=bias, o_bias=bias, mlp_bias=mlp_bias)


FAMILY = Family(
    "llama",
    read_config,
    llama_like,
    models="Llama 2, 3, 3.1, 3.2 (text), 3.3, and what keeps their form",
    checked="transformers' logits and greedy tokens",
)
