"""Model shapes, and what computing with one costs by its formulas: operations and bytes per token."""

from __future__ import annotations

from dataclasses import dataclass

import random_checkpoint

from llmserve.models import read_config

SHAPES: dict[str, dict] = random_checkpoint.SHAPES
"""`tiny` is for trying the script, not for judging an engine."""


@dataclass(frozen=True)
class Format:
    """A weight format that several engines have in common, with the name each has for it (None: it has none)."""

    name: str
    label: str
    build: tuple[str, ...] | None  # flags of `llmserve build`
    gguf: str | None
    openvino: str | None


FORMATS = {
    f.name: f
    for f in (
        Format("int8", "int8", ("--quant", "int8"), "Q8_0", "int8"),
        Format("int4", "int4 in groups of 32, head int8", ("--quant", "int4", "--group-size", "32"), "Q4_0", "int4"),
        Format(
            "int4-pure",
            "int4 in groups of 32, head too",
            ("--quant", "int4", "--group-size", "32", "--head-quant", "int4"),
            "Q4_0-pure",
            None,
        ),
        Format("bf16", "bfloat16", ("--quant", "none"), "BF16", None),
    )
}

BYTES_PER_WEIGHT: dict[str, dict[str, tuple[float, float]]] = {
    "llmserve": {"int8": (1, 1), "int4": (0.5 + 2 / 32, 1), "int4-pure": (0.5 + 2 / 32, 0.5 + 2 / 32), "bf16": (2, 2)},
    "llama.cpp": {
        "int8": (34 / 32, 34 / 32),
        "int4": (18 / 32, 34 / 32),
        "int4-pure": (18 / 32, 18 / 32),
        "bf16": (2, 2),
    },
    "openvino": {"int8": (1, 1), "int4": (0.5 + 2.5 / 32, 1)},
}
"""Of the layers' matrices and of the head; scales of groups included, those of whole rows left out."""


def layer_weights(shape: dict) -> int:
    """Weights of all layers' matrices that one token meets, without the embedding table and the head."""
    model = read_config(shape)
    hidden, dim = model.hidden_size, model.head_dim
    attention = 2 * hidden * dim * (model.num_heads + model.num_kv_heads)
    experts = model.experts
    inner = model.intermediate_size if experts is None else experts.per_token * experts.intermediate_size
    return model.num_layers * (attention + 3 * hidden * inner)


def vocabulary(shape: dict) -> int:
    return read_config(shape).vocab_size


def head_weights(shape: dict) -> int:
    return vocabulary(shape) * read_config(shape).hidden_size


def operations_per_prompt_token(shape: dict) -> int:
    """A multiplication and an addition per weight of the layers; without head and attention."""
    return 2 * layer_weights(shape)


def bytes_per_decoded_token(shape: dict, engine: str, format_name: str) -> float:
    """Bytes of weights that decoding one token for one sequence reads; without the KV cache."""
    layers, head = BYTES_PER_WEIGHT[engine][format_name]
    return layer_weights(shape) * layers + head_weights(shape) * head
