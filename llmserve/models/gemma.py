"""Gemma (Gemma Team 2024): a scaled embedding, norms around 1, GELU in the gate."""

from __future__ import annotations

import math

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    # Early files say hidden_act "gelu" and mean GELU by tanh; the key that replaced it goes before it.
    named = hf.values.get("hidden_activation") or hf.values.get("hidden_act")
    hf = hf.with_defaults(tie_word_embeddings=True, head_dim=256, num_key_value_heads=16)
    hf = HfConfig({**hf.values, "hidden_act": "gelu_pytorch_tanh" if named in (None, "gelu") else named})
    hf.require("use_bidirectional_attention", False)
    bias = hf.get("attention_bias", bool, False)
    return decoder_config(
        hf,
        "gemma",
        windows=hf.windows(None),
        qkv_bias=bias,
        o_bias=bias,
        norm_offset=1.0,
        embedding_scale=math.sqrt(hf.count("hidden_size")),
    )


FAMILY = Family(
    "gemma",
    read_config,
    llama_like,
    models="Gemma 2B and 7B, CodeGemma",
    checked="transformers' logits",
)
