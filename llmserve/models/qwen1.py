"""Qwen v1 (Bai et al. 2023): q, k and v in one tensor.

Beyond the length it was trained for, a dynamic NTK-aware base, and queries that grow with the logarithm of position.
"""

from __future__ import annotations

from llmserve.config import MAX_LAYERS, ModelConfig, Rope
from llmserve.errors import CheckpointError
from llmserve.layers.linear import Stacked
from llmserve.layers.mlp import MLPSources
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources, LayerSources
from llmserve.models.hf import HfConfig, check_heads
from llmserve.models.sources import fused_attention


def read_config(hf: HfConfig) -> ModelConfig:
    hf.require("quantization_config")
    hf.require("scale_attn_weights", True)
    hf.require("use_cache_quantization", False)
    hf.require("rotary_pct", 1.0, 1)
    hf.require("no_bias", True)
    heads, layers = hf.count("num_attention_heads"), hf.count("num_hidden_layers", most=MAX_LAYERS)
    hidden, both = hf.count("hidden_size"), hf.count("intermediate_size")
    head_dim = hf.count("kv_channels", None) or hidden // heads
    check_heads(heads, heads, head_dim)
    if both % 2:
        raise CheckpointError(f"config.json says intermediate_size={both}; of Qwen v1 that must be an even number.")
    trained = hf.count("seq_length", 8192)
    if trained < 2:
        raise CheckpointError(f"config.json says seq_length={trained}; of Qwen v1 it must be at least 2.")
    stretches = hf.get("use_dynamic_ntk", bool, False)
    return ModelConfig(
        family="qwen1",
        vocab_size=hf.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=both // 2,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        max_position=hf.count("max_position_embeddings", trained),
        norm_eps=hf.positive("layer_norm_epsilon", 1e-6),
        rope=Rope(
            theta=hf.positive("rotary_emb_base", 10000.0),
            dim=head_dim,
            kind="ntk" if stretches else "default",
            original_max_position=trained if stretches else 0,
            logn_from=trained if hf.get("use_logn_attn", bool, False) else 0,
        ),
        tie_embeddings=hf.get("tie_word_embeddings", bool, False),
        qkv_bias=True,
        sliding_windows=(None,) * layers,
    )


def sources(config: ModelConfig) -> DecoderSources:
    inner = config.intermediate_size

    def layer(i: int) -> LayerSources:
        at = f"transformer.h.{i}"
        return LayerSources(
            attention_norm=f"{at}.ln_1",
            attention=fused_attention(f"{at}.attn.c_attn", f"{at}.attn.c_proj", config),
            mlp_norm=f"{at}.ln_2",
            mlp=MLPSources(
                gate=Stacked(f"{at}.mlp.w2", inner),
                up=Stacked(f"{at}.mlp.w1", inner),
                down=Stacked(f"{at}.mlp.c_proj", config.hidden_size),
            ),
        )

    return DecoderSources.of(
        config,
        layer,
        embedding="transformer.wte.weight",
        norm="transformer.ln_f",
        head="lm_head.weight",
    )


FAMILY = Family(
    "qwen1",
    read_config,
    sources,
    models="Qwen 1.8B, 7B, 14B, 72B",
    checked="the original code's logits and greedy tokens",
)
