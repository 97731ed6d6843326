"""Gemma 2 (Gemma Team 2024): capped scores and logits, windows in every other layer, norms on both sides of a block."""

from __future__ import annotations

import math

from llmserve.config import MAX_LAYERS, ModelConfig
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    layers = hf.count("num_hidden_layers", most=MAX_LAYERS)
    hf = hf.with_defaults(
        tie_word_embeddings=True,
        head_dim=256,
        sliding_window=4096,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        hidden_activation="gelu_pytorch_tanh",
        layer_types=[("full_attention" if i % 2 else "sliding_attention") for i in range(layers)],
    )
    hf.require("use_bidirectional_attention", False)
    bias = hf.get("attention_bias", bool, False)
    return decoder_config(
        hf,
        "gemma2",
        windows=hf.windows(hf.count("sliding_window")),
        activation="hidden_activation",
        qkv_bias=bias,
        o_bias=bias,
        norm_offset=1.0,
        embedding_scale=math.sqrt(hf.count("hidden_size")),
        attention_scale=hf.positive("query_pre_attn_scalar") ** -0.5,
        attention_softcap=cap(hf, "attn_logit_softcapping"),
        logit_softcap=cap(hf, "final_logit_softcapping"),
    )


def cap(hf: HfConfig, key: str) -> float:
    """null: nothing is capped."""
    return 0.0 if hf.values[key] is None else hf.positive(key)


def sources(config: ModelConfig) -> DecoderSources:
    return llama_like(
        config,
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    )


FAMILY = Family(
    "gemma2",
    read_config,
    sources,
    models="Gemma 2",
    checked="transformers' logits and greedy tokens",
)
