"""GLM-4-0414 (Z.ai 2025): GLM-4 whose blocks' results are normed before they are added."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources
from llmserve.models.glm import glm_config, mlp
from llmserve.models.hf import HfConfig
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    return glm_config(hf, "glm4")


def sources(config: ModelConfig) -> DecoderSources:
    return llama_like(
        config, mlp=mlp, attention_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"
    )


FAMILY = Family(
    "glm4",
    read_config,
    sources,
    models="GLM-4-0414, GLM-Z1",
    checked="transformers' logits and greedy tokens",
)
