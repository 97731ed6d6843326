"""An engine cut over ranks computes what the whole one computes."""

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
}


@pytest.mark.parametrize("size, config", CASES.values(), ids=CASES.keys())
def test_ranks_together_compute_what_one_computes(tmp_path: Path, size: int, config: dict[str, Any]) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", **config).folder
    whole = Forward(build(checkpoint, tmp_path / "whole")).prefill_and_steps(PROMPT, STEPS)
    cut = build(checkpoint, tmp_path / "cut", tp_size=size)
    for hosts in (1, size):
        ranks = run_ranks(size, lambda comm: Forward(cut, comm).prefill_and_steps(PROMPT, STEPS), hosts=hosts)
        assert deviation(ranks[0], whole) < 1e-5
        assert all(torch.equal(rank, ranks[0]) for rank in ranks)
    ranks = run_ranks(size, lambda comm: Forward(cut, comm, kernels="reference").prefill_and_steps(PROMPT, STEPS))
    assert deviation(ranks[0], whole) < 1e-5
    assert all(torch.equal(rank, ranks[0]) for rank in ranks)
