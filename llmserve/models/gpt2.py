"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, no gate, biases everywhere, weights stored transposed."""

from __future__ import annotations

from llmserve.config import MAX_LAYERS, ModelConfig, Rope
from llmserve.layers.linear import Stacked
from llmserve.layers.mlp import PlainMLPSources
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources, LayerSources
from llmserve.models.hf import HfConfig, check_heads
from llmserve.models.sources import fused_attention


def read_config(hf: HfConfig) -> ModelConfig:
    hf.require("quantization_config")
    hf.require("scale_attn_weights", True)
    hf.require("scale_attn_by_inverse_layer_idx", False)
    hf.require("add_cross_attention", False)
    hidden, heads = hf.count("n_embd"), hf.count("n_head")
    layers = hf.count("n_layer", most=MAX_LAYERS)
    check_heads(heads, heads, hidden // heads)
    return ModelConfig(
        family="gpt2",
        vocab_size=hf.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=hf.count("n_inner", None) or 4 * hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_position=hf.count("n_positions"),
        norm_eps=hf.positive("layer_norm_epsilon", 1e-5),
        rope=Rope(theta=1.0, dim=0),
        tie_embeddings=hf.get("tie_word_embeddings", bool, True),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        layer_norm=True,
        activation=hf.activation("activation_function", "gelu_new"),
        sliding_windows=(None,) * layers,
    )


def sources(config: ModelConfig) -> DecoderSources:
    def layer(i: int) -> LayerSources:
        at = f"transformer.h.{i}"
        return LayerSources(
            attention_norm=f"{at}.ln_1",
            attention=fused_attention(f"{at}.attn.c_attn", f"{at}.attn.c_proj", config, transposed=True),
            mlp_norm=f"{at}.ln_2",
            mlp=PlainMLPSources(
                up=Stacked(f"{at}.mlp.c_fc", config.intermediate_size, transposed=True),
                down=Stacked(f"{at}.mlp.c_proj", config.hidden_size, transposed=True),
            ),
        )

    return DecoderSources.of(
        config,
        layer,
        embedding="transformer.wte.weight",
        positions="transformer.wpe.weight",
        norm="transformer.ln_f",
        head="lm_head.weight",
    )


FAMILY = Family(
    "gpt2",
    read_config,
    sources,
    models="GPT-2",
    checked="transformers' logits and greedy tokens",
)
