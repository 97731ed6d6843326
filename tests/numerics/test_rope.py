"""Rotary angles and rotation against transformers' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llmserve.config import Rope
from llmserve.layers.rope import rotation
from llmserve.ops.reference import rotate

HEADS, DIM = 3, 32
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES: dict[str, tuple[Rope, dict[str, Any]]] = {
    "default": (Rope(theta=1e4, dim=DIM), {"rope_theta": 1e4}),
    "large theta": (Rope(theta=1e6, dim=DIM), {"rope_theta": 1e6}),
    "linear": (
        Rope(theta=1e4, dim=DIM, kind="linear", factor=4.0),
        {"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "llama3": (
        Rope(theta=5e5, dim=DIM, kind="llama3", original_max_position=512, **LLAMA3),
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 512, **LLAMA3},
        },
    ),
}


def frequencies(rope: Rope, variant: int = 0) -> Tensor:
    return rotation(rope, DIM, 4096).inverse_frequencies[variant]


@pytest.mark.parametrize("rope, config", CASES.values(), ids=CASES.keys())
def test_queries_turn_as_in_transformers(rope: Rope, config: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    positions = torch.tensor([0, 1, 2, 3, 100, 4095])
    x = torch.randn(len(positions), HEADS, DIM, generator=torch.Generator().manual_seed(0))
    size = {"hidden_size": HEADS * DIM, "num_attention_heads": HEADS, "max_position_embeddings": 4096}
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(**size, **config))(x, positions[None])
    theirs, _ = apply_rotary_pos_emb(x[None], x[None], cos, sin, unsqueeze_dim=2)
    angles = positions[:, None] * frequencies(rope)
    ours = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(ours, theirs[0], rtol=0, atol=2e-5)


def test_llama3_slows_long_waves_only() -> None:
    """Below the original context's length a wave keeps its speed; far above it, it turns `factor` times slower."""
    plain = frequencies(Rope(theta=5e5, dim=DIM))
    scaled = frequencies(CASES["llama3"][0])
    torch.testing.assert_close(scaled[:1], plain[:1])
    torch.testing.assert_close(scaled[-1:], plain[-1:] / 8)


def test_dynamic_ntk_stretches_the_base_by_powers_of_two() -> None:
    """Qwen v1: alpha = 2^ceil(log2(length / trained) + 1) - 1, and never below 1."""
    rope = Rope(theta=1e4, dim=DIM, kind="ntk", original_max_position=512)
    variants = rope.variants(4096)
    for length in (1, 511, 512, 513, 1024, 1025, 2048, 2049, 4096):
        alpha = max(1, 2 ** math.ceil(math.log2(length / 512) + 1) - 1)
        base = 1e4 * alpha ** (DIM / (DIM - 2))
        theirs = 1 / base ** (torch.arange(0, DIM, 2).float() / DIM)
        torch.testing.assert_close(frequencies(rope, variants.of(length, 9999)), theirs)


def test_longrope_turns_by_the_length_that_a_sequence_may_reach() -> None:
    factors = {"short_factors": (1.0,) * 16, "long_factors": tuple(range(2, 18))}
    rope = Rope(theta=1e4, dim=DIM, kind="longrope", original_max_position=512, **factors)
    variants = rope.variants(4096)
    assert [variants.of(5, limit) for limit in (6, 512, 513, 4096)] == [0, 0, 1, 1]
    torch.testing.assert_close(frequencies(rope), frequencies(Rope(theta=1e4, dim=DIM)))
    torch.testing.assert_close(frequencies(rope, 1), frequencies(rope) / torch.arange(2, 18))
    assert rope.variants(512).lengths == ()


def test_pairs_that_do_not_turn_come_last() -> None:
    rope = Rope(theta=1e4, dim=DIM // 2)
    assert frequencies(rope)[DIM // 4 :].tolist() == [0.0] * (DIM // 4)
    assert (frequencies(rope)[: DIM // 4] > 0).all()
