"""Llama 2 and 3 (Touvron et al. 2023; Llama Team 2024), with linear or llama3 rope scaling."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config, llama_like_sources


def read_config(hf: HfConfig) -> ModelConfig:
    hf.require("sliding_window")
    attention_bias = hf.get("attention_bias", bool, False)
    return decoder_config(
        hf,
        "llama",
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=hf.get("mlp_bias", bool, False),
        qk_norm=False,
        windows=hf.windows(None),
    )


FAMILY = Family("llama", read_config, llama_like_sources)
