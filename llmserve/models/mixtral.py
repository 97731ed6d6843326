"""Mixtral (Jiang et al. 2024): Mistral with experts in every layer."""

from __future__ import annotations

from llmserve.config import MAX_LAYERS, Experts, ModelConfig
from llmserve.layers.experts import ExpertsSources
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import experts, llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(
        num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2, rope_theta=1e6, rms_norm_eps=1e-5
    )
    return decoder_config(
        hf,
        "mixtral",
        windows=hf.windows(hf.count("sliding_window", None)),
        experts=Experts(
            count=hf.count("num_local_experts"),
            per_token=hf.count("num_experts_per_tok"),
            intermediate_size=hf.count("intermediate_size"),
            renormalise=True,
            layers=(True,) * hf.count("num_hidden_layers", most=MAX_LAYERS),
        ),
    )


def mlp(at: str, config: ModelConfig, layer: int) -> ExpertsSources:
    assert config.experts
    return experts(f"{at}.block_sparse_moe", config.experts, config, names="w1 w3 w2")


FAMILY = Family(
    "mixtral",
    read_config,
    lambda config: llama_like(config, mlp=mlp),
    models="Mixtral 8x7B, 8x22B",
    checked="transformers' logits and greedy tokens",
)
