"""An engine cut over ranks computes what the whole one computes, with all logits wanted or few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forward import Forward, deviation
from tests.thread_ranks import run_ranks
from tests.tiny import build, tiny_checkpoint

PROMPT, STEPS = list(range(20, 45)), [5, 3, 8]

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "2 ranks, a KV head each": (2, {}),
    "4 ranks, two to a KV head": (4, {}),
    "4 ranks, all on one KV head": (4, {"num_key_value_heads": 1}),
    "2 ranks, two KV heads each": (2, {"num_key_value_heads": 4}),
    "4 ranks with biases": (4, {"attention_bias": True, "mlp_bias": True}),
    "4 ranks, norms on heads": (4, {"family": "qwen3", "head_dim": 32}),
    "2 ranks, biases on q, k, v": (2, {"family": "qwen2"}),
    "2 ranks, windows": (2, {"family": "mistral", "sliding_window": 7}),
    "4 ranks, tied": (4, {"tie": True}),
    "2 ranks, a vocabulary of an odd size": (2, {"vocab_size": 97}),
    "4 ranks, an odd vocabulary, tied": (4, {"vocab_size": 97, "tie": True}),
    "4 ranks, the last without a token of its own": (4, {"vocab_size": 45}),
    "2 ranks, an inner size that they share unequally": (2, {"intermediate_size": 90, "mlp_bias": True}),
    "3 ranks": (3, {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 40}),
    "4 ranks, norms around blocks, caps": (
        4, {"family": "gemma2", "head_dim": 16, "sliding_window": 7, "tie": True, "attn_logit_softcapping": 1.5}
    ),
    "4 ranks, half of each head turns": (4, {"family": "glm4", "head_dim": 16}),
    "4 ranks, LayerNorm and learned positions": (4, {"family": "gpt2", "tie": True, "n_inner": 200}),
    "2 ranks, experts": (
        2, {"family": "mixtral", "num_local_experts": 5, "intermediate_size": 72, "num_experts_per_tok": 2}
    ),
    "4 ranks, experts, one shared": (
        4, {"family": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 136,
            "shared_expert_intermediate_size": 200, "mlp_only_layers": [1]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("size, config", CASES.values(), ids=CASES.keys())
def test_ranks_together_compute_what_one_computes(tmp_path: Path, size: int, config: dict[str, Any]) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", **config).folder
    whole = Forward(build(checkpoint, tmp_path / "whole")).prefill_and_steps(PROMPT, STEPS)
    cut = build(checkpoint, tmp_path / "cut", tp_size=size)
    for hosts in (1, size):
        ranks = run_ranks(size, lambda comm: Forward(cut, comm).prefill_and_steps(PROMPT, STEPS), hosts=hosts)
        assert deviation(ranks[0], whole) < 1e-5
        assert all(torch.equal(rank, ranks[0]) for rank in ranks)
        served = run_ranks(size, lambda comm: Forward(cut, comm).served(PROMPT, STEPS), hosts=hosts)
        assert all(torch.equal(rank, ranks[0][len(PROMPT) - 1 :]) for rank in served)
    ranks = run_ranks(size, lambda comm: Forward(cut, comm, kernels="reference").prefill_and_steps(PROMPT, STEPS))
    assert deviation(ranks[0], whole) < 1e-5
    assert all(torch.equal(rank, ranks[0]) for rank in ranks)
    served = run_ranks(size, lambda comm: Forward(cut, comm, kernels="reference").served(PROMPT, STEPS))
    assert all(deviation(rank, whole[len(PROMPT) - 1 :]) < 1e-5 for rank in served)
