"""Where checkpoints keep things, as far as families have it in common: the names of `LlamaForCausalLM`, and matrices
that are stored together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmserve.config import Experts, ModelConfig
from llmserve.layers.attention import AttentionSources
from llmserve.layers.experts import ExpertsSources
from llmserve.layers.linear import Stacked, StackedHeads
from llmserve.layers.mlp import FeedForwardSources, MLPSources
from llmserve.models.decoder import DecoderSources, LayerSources


def attention(at: str, config: ModelConfig) -> AttentionSources:
    """q, k, v and o each in a tensor of its own."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return AttentionSources(
        q=heads(config, f"{at}.q_proj", q),
        k=heads(config, f"{at}.k_proj", kv),
        v=Stacked(f"{at}.v_proj", kv),
        o=Stacked(f"{at}.o_proj", config.hidden_size),
        q_norm=f"{at}.q_norm" if config.qk_norm else None,
        k_norm=f"{at}.k_norm" if config.qk_norm else None,
    )


def fused_attention(qkv: str, o: str, config: ModelConfig, *, transposed: bool = False) -> AttentionSources:
    """All queries, then all keys, then all values in the tensor `qkv`."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    of = q + 2 * kv
    return AttentionSources(
        q=heads(config, qkv, q, first=0, of=of, transposed=transposed),
        k=heads(config, qkv, kv, first=q, of=of, transposed=transposed),
        v=Stacked(qkv, kv, q + kv, of, transposed),
        o=Stacked(o, config.hidden_size, transposed=transposed),
    )


def heads(config: ModelConfig, name: str, count: int, **where: Any) -> StackedHeads:
    """Queries or keys, which are rotated."""
    rope = config.rope
    return StackedHeads(name, count, head_dim=config.head_dim, turning=rope.dim, interleaved=rope.interleaved, **where)


def gated(
    at: str, config: ModelConfig, size: int | None = None, names: str = "gate_proj up_proj down_proj"
) -> MLPSources:
    """`size`: of the inner dimension, if it is not the config's. `names`: of gate, up and down."""
    inner = size or config.intermediate_size
    gate, up, down = names.split()
    return MLPSources(
        Stacked(f"{at}.{gate}", inner), Stacked(f"{at}.{up}", inner), Stacked(f"{at}.{down}", config.hidden_size)
    )


def fused_gated(gate_up: str, down: str, config: ModelConfig) -> MLPSources:
    """All of gate, then all of up in the tensor `gate_up`."""
    inner = config.intermediate_size
    return MLPSources(
        Stacked(gate_up, inner, 0, 2 * inner),
        Stacked(gate_up, inner, inner, 2 * inner),
        Stacked(down, config.hidden_size),
    )


def experts(at: str, each: Experts, config: ModelConfig, names: str = "gate_proj up_proj down_proj") -> ExpertsSources:
    """Each expert's matrices in tensors of their own, and where there is one, the shared expert's behind its gate."""
    shares = each.shared_size > 0
    return ExpertsSources(
        router=Stacked(f"{at}.gate", each.count),
        experts=tuple(gated(f"{at}.experts.{e}", config, each.intermediate_size, names) for e in range(each.count)),
        shared=gated(f"{at}.shared_expert", config, each.shared_size) if shares else None,
        shared_gate=Stacked(f"{at}.shared_expert_gate", 1) if shares else None,
    )


def llama_like(
    config: ModelConfig,
    *,
    attention: Callable[[str, ModelConfig], AttentionSources] = attention,
    mlp: Callable[[str, ModelConfig, int], FeedForwardSources] = lambda at, config, i: gated(f"{at}.mlp", config),
    **norms: str,
) -> DecoderSources:
    """The tensor names of `LlamaForCausalLM`, but for what is given.

    `attention` gets the name of its part of a layer, `mlp` that of the layer and its number. `norms`: fields of
    LayerSources → their names within a layer.
    """
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", **norms}

    def layer(i: int) -> LayerSources:
        at = f"model.layers.{i}"
        named = {field: f"{at}.{name}" for field, name in norms.items()}
        return LayerSources(attention=attention(f"{at}.self_attn", config), mlp=mlp(at, config, i), **named)

    return DecoderSources.of(
        config,
        layer,
        embedding="model.embed_tokens.weight",
        norm="model.norm",
        head="lm_head.weight",
    )
