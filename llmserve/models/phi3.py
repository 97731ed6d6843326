"""Phi-3, Phi-3.5 and Phi-4-mini (Abdin et al. 2024): Llama with q, k and v, and gate and up, in one tensor each."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import fused_attention, fused_gated, llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(rms_norm_eps=1e-5)
    return decoder_config(hf, "phi3", windows=hf.windows(hf.count("sliding_window", None)), turning=1.0)


def sources(config: ModelConfig) -> DecoderSources:
    return llama_like(
        config,
        attention=lambda at, config: fused_attention(f"{at}.qkv_proj", f"{at}.o_proj", config),
        mlp=lambda at, config, i: fused_gated(f"{at}.mlp.gate_up_proj", f"{at}.mlp.down_proj", config),
    )


FAMILY = Family(
    "phi3",
    read_config,
    sources,
    models="Phi-3 mini and medium, Phi-3.5 mini, Phi-4, Phi-4-mini",
    checked="transformers' logits and greedy tokens",
)
