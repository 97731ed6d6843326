"""Reading a Hugging Face config.json strictly.

A value that would change the computation and is not implemented is an error that names it; it is never ignored.
"""

from __future__ import annotations

import math
from typing import Any

from llmserve.config import MAX_COUNT, MAX_HEAD_DIM, MAX_LAYERS, Activation, ModelConfig
from llmserve.errors import CheckpointError
from llmserve.models.rope import read_rope

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Names of transformers."""


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

    def activation(self, key: str, default: str) -> Activation:
        name = self.get(key, str, default)
        if name not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json says {key}={name!r:.200}, which llmserve does not implement; it computes "
                f"{', '.join(ACTIVATIONS)}."
            )
        return ACTIVATIONS[name]


def decoder_config(
    hf: HfConfig,
    family: str,
    *,
    windows: tuple[int | None, ...],
    activation: str = "hidden_act",
    interleaved: bool = False,
    turning: float | None = None,
    **differences: Any,
) -> ModelConfig:
    """What Llama-like families have in common; `differences` are the fields of ModelConfig in which one differs.

    `activation`: the key that names it. `turning`: the share of a head that rotates, where config.json does not say,
    None: always all of it; `interleaved`: neighbours turn together.
    """
    hf.require("quantization_config")
    hf.require("dual_chunk_attention_config")  # Qwen2.5-1M
    hf.require("use_mrope", False)
    heads = hf.count("num_attention_heads")
    hidden = hf.count("hidden_size")
    kv_heads = hf.count("num_key_value_heads", heads)
    head_dim = hf.count("head_dim", None) or hidden // heads
    check_heads(heads, kv_heads, head_dim)
    position = hf.count("max_position_embeddings")
    rope, position = read_rope(hf, head_dim, position, turning, interleaved)
    fields = {
        "family": family,
        "vocab_size": hf.count("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": hf.count("intermediate_size"),
        "num_layers": hf.count("num_hidden_layers", most=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "max_position": position,
        "norm_eps": hf.positive("rms_norm_eps", 1e-6),
        "rope": rope,
        "tie_embeddings": hf.get("tie_word_embeddings", bool, False),
        "activation": hf.activation(activation, "silu"),
        "sliding_windows": windows,
    }
    return ModelConfig(**{**fields, **differences})


def check_heads(heads: int, kv_heads: int, head_dim: int) -> None:
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json says num_attention_heads={heads} and num_key_value_heads={kv_heads}; the one must be a "
            "multiple of the other."
        )
    if head_dim % 2 or not 2 <= head_dim <= MAX_HEAD_DIM:
        raise CheckpointError(
            f"config.json implies head_dim={head_dim}; rotary embedding needs an even number from 2 to {MAX_HEAD_DIM}."
        )
