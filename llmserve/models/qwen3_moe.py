"""Qwen3-MoE (Qwen Team 2025): Qwen3 with experts."""

from __future__ import annotations

from llmserve.config import Experts, ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.qwen2 import DEFAULTS, sliding_windows
from llmserve.models.qwen2_moe import expert_layers, mlp
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS, num_experts_per_tok=8, moe_intermediate_size=768, head_dim=128)
    bias = hf.get("attention_bias", bool, False)
    return decoder_config(
        hf,
        "qwen3_moe",
        windows=sliding_windows(hf),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
        experts=Experts(
            count=hf.count("num_experts", hf.count("num_local_experts", 128)),  # transformers 5 writes the second
            per_token=hf.count("num_experts_per_tok"),
            intermediate_size=hf.count("moe_intermediate_size"),
            renormalise=hf.get("norm_topk_prob", bool, False),
            layers=expert_layers(hf),
        ),
    )


FAMILY = Family(
    "qwen3_moe",
    read_config,
    lambda config: llama_like(config, mlp=mlp),
    models="Qwen3-30B-A3B, Qwen3-235B-A22B",
    checked="transformers' logits and greedy tokens",
)
