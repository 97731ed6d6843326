"""Every family computes what transformers computes: prompt and cached steps, from the same files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.forward import Forward, deviation
from tests.kernels import KERNELS
from tests.tiny import SIZES, Tiny, build, edit_config, tiny_checkpoint

TOLERANCE = 1e-4
"""Of the logits' range; fp32 on both sides, so only the order of sums differs."""

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CASES: dict[str, dict[str, Any]] = {
    "llama, every head its own KV": {"num_key_value_heads": 4},
    "llama, grouped queries": {"num_key_value_heads": 2},
    "llama, one KV head": {"num_key_value_heads": 1},
    "llama, attention biases": {"attention_bias": True},
    "llama, MLP biases": {"mlp_bias": True},
    "llama, an MLP that ends within a panel": {"intermediate_size": 36, "mlp_bias": True},
    "llama, tied": {"tie": True},
    "llama, wide heads": {"head_dim": 32},
    "llama, rope theta": {"rope_theta": 500000.0},
    "mistral, window": {"family": "mistral", "sliding_window": 7},
    "mistral, window of two": {"family": "mistral", "sliding_window": 2},
    "mistral, no window": {"family": "mistral", "sliding_window": None},
    "mistral, narrow heads": {"family": "mistral", "sliding_window": 7, "head_dim": 8},
    "qwen2, untied": {"family": "qwen2"},
    "qwen2, tied": {"family": "qwen2", "tie": True},
    "qwen2, windows from layer 1": {
        "family": "qwen2", "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1
    },
    "qwen2, windows in every layer": {
        "family": "qwen2", "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0
    },
    "qwen2, windows switched off": {
        "family": "qwen2", "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 0
    },
    "qwen2, windows by layer type": {
        "family": "qwen2", "use_sliding_window": True, "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3, untied": {"family": "qwen3", "head_dim": 16},
    "qwen3, tied, wide heads": {"family": "qwen3", "head_dim": 32, "tie": True},
    "qwen3, attention biases": {"family": "qwen3", "head_dim": 16, "attention_bias": True},
    "qwen3, windows from layer 1": {
        "family": "qwen3", "head_dim": 16, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1
    },
    "gemma": {"family": "gemma", "head_dim": 16, "tie": True},
    "gemma2, windows in every other layer": {
        "family": "gemma2", "head_dim": 16, "sliding_window": 7, "tie": True, "query_pre_attn_scalar": 24
    },
    "gemma2, nothing capped": {
        "family": "gemma2", "head_dim": 32, "sliding_window": 7, "tie": True, "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gemma2, small caps, untied, biases": {
        "family": "gemma2", "head_dim": 16, "sliding_window": 7, "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0, "attention_bias": True,
    },
    "glm": {"family": "glm", "head_dim": 16},
    "glm, a quarter turns": {"family": "glm", "head_dim": 16, "partial_rotary_factor": 0.25, "attention_bias": False},
    "glm4": {"family": "glm4", "head_dim": 16, "tie": True},
    "gpt2": {"family": "gpt2", "tie": True},
    "gpt2, untied, narrow": {"family": "gpt2", "n_inner": 72},
    "gpt2, hidden size within a panel": {"family": "gpt2", "hidden_size": 72, "n_inner": 100},
    "mixtral": {"family": "mixtral", "num_local_experts": 5},
    "mixtral, window, all experts": {
        "family": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 3, "sliding_window": 7,
        "intermediate_size": 40,
    },
    "phi3": {"family": "phi3"},
    "phi3, window, half turns": {"family": "phi3", "sliding_window": 7, "partial_rotary_factor": 0.5},
    "qwen2_moe": {
        "family": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "qwen2_moe, a dense layer, renormalised": {
        "family": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64, "mlp_only_layers": [0], "norm_topk_prob": True, "qkv_bias": False,
    },
    "qwen3_moe": {
        "family": "qwen3_moe", "head_dim": 16, "num_experts": 40, "num_experts_per_tok": 4, "moe_intermediate_size": 24
    },
    "qwen3_moe, every second layer": {
        "family": "qwen3_moe", "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "decoder_sparse_step": 2, "norm_topk_prob": True,
    },
}  # fmt: skip

YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_ROPES = {
    "yarn": YARN_ROPE,
    "yarn, blended otherwise": {**YARN_ROPE, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False},
    "yarn, scores as they are": {**YARN_ROPE, "attention_factor": 1.0},
    "yarn, mscale": {**YARN_ROPE, "mscale": 0.7, "mscale_all_dim": 1.3},
}

LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}


def tokens(count: int) -> list[int]:
    return random.Random(count).choices(range(SIZES["vocab_size"]), k=count)


def check(tiny: Tiny, tmp_path: Path) -> None:
    prompt, steps = tokens(41), tokens(9)
    engine, theirs = build(tiny.folder, tmp_path / "engine"), tiny.logits(prompt, steps)
    for kernels in (*KERNELS, "reference"):
        forward = Forward(engine, kernels=kernels, block_size=4 if kernels == "reference" else 16)
        assert deviation(forward.prefill_and_steps(prompt, steps), theirs) < TOLERANCE, kernels


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_logits_are_those_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tiny_checkpoint(tmp_path / "checkpoint", **config), tmp_path)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("scaling", [LINEAR_ROPE, LLAMA3_ROPE], ids=["linear", "llama3"])
def test_every_family_scales_its_rope(tmp_path: Path, family: str, scaling: dict[str, Any]) -> None:
    config = {"rope_theta": 5000.0, "rope_scaling": scaling, "head_dim": 16}
    check(tiny_checkpoint(tmp_path / "checkpoint", family, **config), tmp_path)


@pytest.mark.parametrize("scaling", YARN_ROPES.values(), ids=YARN_ROPES.keys())
def test_yarn(tmp_path: Path, scaling: dict[str, Any]) -> None:
    check(tiny_checkpoint(tmp_path / "checkpoint", "qwen2", rope_theta=5000.0, rope_scaling=scaling), tmp_path)


@pytest.mark.parametrize("original", [32, 64], ids=["long", "short"])
@pytest.mark.parametrize("given", [{}, {"attention_factor": 1.3}, {"factor": 2.0}], ids=str)
def test_longrope(tmp_path: Path, original: int, given: dict[str, float]) -> None:
    """The prompt is longer than 32 tokens, and with all steps shorter than 64."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0 + i / 8 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "original_max_position_embeddings": original,
        **given,
    }
    config = {"rope_theta": 5000.0, "rope_scaling": scaling, "original_max_position_embeddings": original}
    check(tiny_checkpoint(tmp_path / "checkpoint", "phi3", **config), tmp_path)


def test_longrope_of_a_part_of_each_head(tmp_path: Path) -> None:
    """Its factor grows what turns, and leaves alone what does not."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 32,
        "attention_factor": 1.3,
    }
    config = {"rope_scaling": scaling, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}
    check(tiny_checkpoint(tmp_path / "checkpoint", "phi3", **config), tmp_path)


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("scaling", [LINEAR_ROPE, LLAMA3_ROPE], ids=["linear", "llama3"])
def test_rope_is_read_as_transformers_4_writes_it(tmp_path: Path, scaling: dict[str, Any], key: str) -> None:
    tiny = tiny_checkpoint(tmp_path / "checkpoint", rope_theta=5000.0, rope_scaling=scaling)
    written = {key if k == "rope_type" else k: v for k, v in scaling.items()}
    edit_config(tiny.folder, without=("rope_parameters",), rope_theta=5000.0, rope_scaling=written)
    check(tiny, tmp_path)


@pytest.mark.parametrize("scaling", [{"rope_type": "default"}, LINEAR_ROPE, LLAMA3_ROPE], ids=lambda s: s["rope_type"])
def test_rope_is_read_as_transformers_5_writes_it(tmp_path: Path, scaling: dict[str, Any]) -> None:
    tiny = tiny_checkpoint(tmp_path / "checkpoint", rope_theta=5000.0, rope_scaling=scaling)
    written = {**scaling, "rope_theta": 5000.0}
    edit_config(tiny.folder, without=("rope_theta", "rope_scaling"), rope_parameters=written)
    check(tiny, tmp_path)
