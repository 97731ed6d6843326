"""Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024): Qwen2 with experts, one of which sees every token behind a gate."""

from __future__ import annotations

from llmserve.config import MAX_LAYERS, Experts, ModelConfig
from llmserve.layers.mlp import FeedForwardSources
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.qwen2 import DEFAULTS, sliding_windows
from llmserve.models.sources import experts, gated, llama_like


def expert_layers(hf: HfConfig) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`th layer, but for `mlp_only_layers`."""
    step, dense = hf.count("decoder_sparse_step", 1), hf.get("mlp_only_layers", list, [])
    return tuple((i + 1) % step == 0 and i not in dense for i in range(hf.count("num_hidden_layers", most=MAX_LAYERS)))


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(**DEFAULTS, num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408)
    return decoder_config(
        hf,
        "qwen2_moe",
        windows=sliding_windows(hf),
        qkv_bias=hf.get("qkv_bias", bool, True),
        experts=Experts(
            count=hf.count("num_experts"),
            per_token=hf.count("num_experts_per_tok"),
            intermediate_size=hf.count("moe_intermediate_size"),
            shared_size=hf.count("shared_expert_intermediate_size", 5632),
            renormalise=hf.get("norm_topk_prob", bool, False),
            layers=expert_layers(hf),
        ),
    )


def mlp(at: str, config: ModelConfig, layer: int) -> FeedForwardSources:
    assert config.experts
    if config.experts.layers[layer]:
        return experts(f"{at}.mlp", config.experts, config)
    return gated(f"{at}.mlp", config)


FAMILY = Family(
    "qwen2_moe",
    read_config,
    lambda config: llama_like(config, mlp=mlp),
    models="Qwen1.5-MoE, Qwen2-57B-A14B",
    checked="transformers' logits and greedy tokens",
)
