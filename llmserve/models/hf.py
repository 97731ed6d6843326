"""Reading a Hugging Face config.json strictly, and the weight names that Llama-like families share.

A value that would change the computation and is not implemented is an error that names it; it is never ignored.
"""

from __future__ import annotations

import math
from typing import Any

from llmserve.config import MAX_COUNT, MAX_HEAD_DIM, MAX_LAYERS, ModelConfig, Rope
from llmserve.errors import CheckpointError
from llmserve.layers.attention import AttentionSources
from llmserve.layers.linear import Stacked
from llmserve.layers.mlp import MLPSources
from llmserve.models.decoder import DecoderSources, LayerSources


class HfConfig:
    """config.json with typed, named look-ups."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def with_defaults(self, **defaults: Any) -> HfConfig:
        """What transformers takes for a key that is absent; null stays null, which is not the same to it."""
        return HfConfig({**defaults, **self.values})

    def get(self, key: str, kind: type, default: Any = ...) -> Any:
        """`default` where the key is absent or null; without one, that is an error. Booleans are not numbers."""
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise CheckpointError(f"config.json has no {key}; it is needed for {self.values.get('architectures')}.")
            return default
        if kind is float and type(value) is int and abs(value) <= MAX_COUNT:
            value = float(value)
        if type(value) is not kind:
            raise CheckpointError(f"config.json says {key}={value!r:.200}, which is not a {kind.__name__}.")
        return value

    def count(self, key: str, default: Any = ..., most: int = MAX_COUNT) -> int:
        value = self.get(key, int, default)
        if value is not default and value < 1:
            raise CheckpointError(f"config.json says {key}={value!r:.200}; it must be at least 1.")
        if value is not default and value > most:
            raise CheckpointError(f"config.json says {key}={value!r:.200}; llmserve computes at most {most}.")
        return value

    def positive(self, key: str, default: Any = ...) -> float:
        value = self.get(key, float, default)
        if not 0 < value < math.inf:
            raise CheckpointError(f"config.json says {key}={value}; it must be a number above 0.")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """The key is absent, null or one of the values we compute."""
        value = self.values.get(key)
        if value is not None and value not in allowed:
            known = f"; it computes {key}={allowed[0]!r}" if allowed else ""
            raise CheckpointError(f"config.json says {key}={value!r:.200}, which llmserve does not implement{known}.")

    def windows(self, size: int | None, first: int = 0) -> tuple[int | None, ...]:
        """Each layer's sliding window: `size` where `layer_types` says so; without that, from layer `first` on."""
        layers = self.count("num_hidden_layers", most=MAX_LAYERS)
        kinds = self.get("layer_types", list, None)
        if kinds is None:
            return tuple(size if i >= first else None for i in range(layers))
        windows: dict[Any, int | None] = {"full_attention": None}
        if size is not None:
            windows["sliding_attention"] = size
        if unknown := [kind for kind in kinds if not isinstance(kind, str) or kind not in windows]:
            raise CheckpointError(
                f"config.json says {unknown[0]!r:.200} in layer_types; with its other keys llmserve computes only "
                f"{' and '.join(windows)}."
            )
        if len(kinds) != layers:
            raise CheckpointError(f"config.json has {len(kinds)} layer_types for num_hidden_layers={layers}.")
        return tuple(windows[kind] for kind in kinds)

    def rope(self) -> Rope:
        """`rope_theta` with `rope_scaling`, or transformers 5's `rope_parameters`, which holds both."""
        scaling = self.get("rope_scaling", dict, None) or self.get("rope_parameters", dict, None) or {}
        inner = HfConfig(scaling)
        if nested := [key for key, value in scaling.items() if isinstance(value, dict)]:
            raise CheckpointError(
                f"config.json has a rope of its own for {' and for '.join(nested)}; llmserve computes one rope."
            )
        theta = inner.positive("rope_theta", self.positive("rope_theta", 10000.0))
        self.require("partial_rotary_factor", 1.0)
        inner.require("partial_rotary_factor", 1.0)
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        if kind == "default":
            return Rope(theta=theta)
        if kind == "linear":
            return Rope(theta=theta, kind="linear", factor=inner.positive("factor"))
        if kind == "llama3":
            original = inner.count("original_max_position_embeddings")
            self.require("original_max_position_embeddings", original)  # some files say it here too
            low, high = inner.positive("low_freq_factor"), inner.positive("high_freq_factor")
            if low >= high:
                raise CheckpointError(
                    f"config.json says low_freq_factor={low} and high_freq_factor={high}; the first must be smaller."
                )
            return Rope(
                theta=theta,
                kind="llama3",
                factor=inner.positive("factor"),
                low_freq_factor=low,
                high_freq_factor=high,
                original_max_position=original,
            )
        raise CheckpointError(
            f"config.json asks for rope scaling {kind!r:.200}, which llmserve does not implement; it computes default, "
            "linear and llama3."
        )


def decoder_config(hf: HfConfig, family: str, *, qkv_bias: bool, o_bias: bool, mlp_bias: bool, qk_norm: bool,
                   windows: tuple[int | None, ...]) -> ModelConfig:  # fmt: skip
    """What Llama-like families have in common; the keyword arguments are where they differ."""
    hf.require("hidden_act", "silu", "swish")
    hf.require("quantization_config")
    hf.require("dual_chunk_attention_config")  # Qwen2.5-1M
    hf.require("use_mrope", False)
    heads = hf.count("num_attention_heads")
    hidden = hf.count("hidden_size")
    kv_heads = hf.count("num_key_value_heads", heads)
    head_dim = hf.count("head_dim", None) or hidden // heads
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json says num_attention_heads={heads} and num_key_value_heads={kv_heads}; the one must be a "
            "multiple of the other."
        )
    if head_dim % 2 or not 2 <= head_dim <= MAX_HEAD_DIM:
        raise CheckpointError(
            f"config.json implies head_dim={head_dim}; rotary embedding needs an even number from 2 to {MAX_HEAD_DIM}."
        )
    return ModelConfig(
        family=family,
        vocab_size=hf.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=hf.count("intermediate_size"),
        num_layers=hf.count("num_hidden_layers", most=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=hf.count("max_position_embeddings"),
        norm_eps=hf.positive("rms_norm_eps", 1e-6),
        rope=hf.rope(),
        tie_embeddings=hf.get("tie_word_embeddings", bool, False),
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        sliding_windows=windows,
    )


def llama_like_sources(config: ModelConfig) -> DecoderSources:
    """The tensor names of `LlamaForCausalLM` and the families that kept them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def layer(i: int) -> LayerSources:
        at = f"model.layers.{i}"
        return LayerSources(
            attention_norm=f"{at}.input_layernorm.weight",
            attention=AttentionSources(
                q=Stacked(f"{at}.self_attn.q_proj", q_rows),
                k=Stacked(f"{at}.self_attn.k_proj", kv_rows),
                v=Stacked(f"{at}.self_attn.v_proj", kv_rows),
                o=Stacked(f"{at}.self_attn.o_proj", hidden),
                q_norm=f"{at}.self_attn.q_norm.weight" if config.qk_norm else None,
                k_norm=f"{at}.self_attn.k_norm.weight" if config.qk_norm else None,
            ),
            mlp_norm=f"{at}.post_attention_layernorm.weight",
            mlp=MLPSources(
                gate=Stacked(f"{at}.mlp.gate_proj", inner),
                up=Stacked(f"{at}.mlp.up_proj", inner),
                down=Stacked(f"{at}.mlp.down_proj", hidden),
            ),
        )

    return DecoderSources(
        embedding="model.embed_tokens.weight",
        layers=tuple(layer(i) for i in range(config.num_layers)),
        norm="model.norm.weight",
        head="lm_head.weight",
    )
