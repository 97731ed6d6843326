"""ChatGLM2, ChatGLM3 and GLM-4-9B in the form of their remote code (Zeng et al. 2022; GLM Team 2024).

Few KV heads; half of each head turns, neighbours together; q, k and v, and gate and up, in one tensor each.
"""

from __future__ import annotations

from llmserve.config import MAX_LAYERS, ModelConfig, Rope
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources, LayerSources
from llmserve.models.hf import HfConfig, check_heads
from llmserve.models.sources import fused_attention, fused_gated


def read_config(hf: HfConfig) -> ModelConfig:
    hf.require("quantization_config")
    hf.require("quantization_bit", 0)
    hf.require("rmsnorm", True)
    hf.require("original_rope", True)
    hf.require("apply_residual_connection_post_layernorm", False)
    hf.require("post_layer_norm", True)
    hf.require("pre_seq_len")
    hf.require("prefix_projection", False)
    heads, hidden = hf.count("num_attention_heads"), hf.count("hidden_size")
    grouped = hf.get("multi_query_attention", bool, False)
    kv_heads = hf.count("multi_query_group_num") if grouped else heads
    head_dim = hf.count("kv_channels", hidden // heads)
    check_heads(heads, kv_heads, head_dim)
    layers = hf.count("num_layers", most=MAX_LAYERS)
    bias = hf.get("add_bias_linear", bool, False)
    return ModelConfig(
        family="chatglm",
        vocab_size=hf.count("padded_vocab_size"),
        hidden_size=hidden,
        intermediate_size=hf.count("ffn_hidden_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=hf.count("seq_length"),
        norm_eps=hf.positive("layernorm_epsilon", 1e-5),
        rope=Rope(theta=10000.0 * hf.positive("rope_ratio", 1.0), dim=head_dim // 2, interleaved=True),
        tie_embeddings=hf.get("tie_word_embeddings", bool, False),
        qkv_bias=bias or hf.get("add_qkv_bias", bool, False),
        o_bias=bias,
        mlp_bias=bias,
        sliding_windows=(None,) * layers,
    )


def sources(config: ModelConfig) -> DecoderSources:
    def layer(i: int) -> LayerSources:
        at = f"transformer.encoder.layers.{i}"
        return LayerSources(
            attention_norm=f"{at}.input_layernorm",
            attention=fused_attention(f"{at}.self_attention.query_key_value", f"{at}.self_attention.dense", config),
            mlp_norm=f"{at}.post_attention_layernorm",
            mlp=fused_gated(f"{at}.mlp.dense_h_to_4h", f"{at}.mlp.dense_4h_to_h", config),
        )

    return DecoderSources.of(
        config,
        layer,
        embedding="transformer.embedding.word_embeddings.weight",
        norm="transformer.encoder.final_layernorm",
        head="transformer.output_layer.weight",
    )


FAMILY = Family(
    "chatglm",
    read_config,
    sources,
    models="ChatGLM2-6B, ChatGLM3-6B (also -32k), GLM-4-9B in its first form",
    checked="the original code's logits and greedy tokens",
)
