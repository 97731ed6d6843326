"""Rotary angles and rotation against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmserve.config import Rope
from llmserve.layers.rope import inverse_frequencies
from llmserve.ops.reference import rotate

HEADS, DIM = 3, 32
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES: dict[str, tuple[Rope, dict[str, Any]]] = {
    "default": (Rope(theta=1e4), {"rope_theta": 1e4}),
    "large theta": (Rope(theta=1e6), {"rope_theta": 1e6}),
    "linear": (
        Rope(theta=1e4, kind="linear", factor=4.0),
        {"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "llama3": (
        Rope(theta=5e5, kind="llama3", original_max_position=512, **LLAMA3),
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 512, **LLAMA3},
        },
    ),
}


@pytest.mark.parametrize("rope, config", CASES.values(), ids=CASES.keys())
def test_queries_turn_as_in_transformers(rope: Rope, config: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    positions = torch.tensor([0, 1, 2, 3, 100, 4095])
    x = torch.randn(len(positions), HEADS, DIM, generator=torch.Generator().manual_seed(0))
    size = {"hidden_size": HEADS * DIM, "num_attention_heads": HEADS, "max_position_embeddings": 4096}
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(**size, **config))(x, positions[None])
    theirs, _ = apply_rotary_pos_emb(x[None], x[None], cos, sin, unsqueeze_dim=2)
    angles = positions[:, None] * inverse_frequencies(rope, DIM)
    ours = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(ours, theirs[0], rtol=0, atol=2e-5)


def test_llama3_slows_long_waves_only() -> None:
    """Below the original context's length a wave keeps its speed; far above it, it turns `factor` times slower."""
    plain = inverse_frequencies(Rope(theta=5e5), DIM)
    scaled = inverse_frequencies(CASES["llama3"][0], DIM)
    torch.testing.assert_close(scaled[:1], plain[:1])
    torch.testing.assert_close(scaled[-1:], plain[-1:] / 8)
