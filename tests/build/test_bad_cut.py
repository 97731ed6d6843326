"""Rank counts and group sizes that a model cannot be cut into: what is wrong, and advice that is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.errors import BuildError
from tests.build.refusal import refusal
from tests.tiny import build, tiny_checkpoint


def test_heads_that_ranks_do_not_divide(checkpoint: Path) -> None:
    assert refusal(checkpoint, tp_size=3) == (
        "tp_size=3 does not divide the model's number of attention heads (4); choose a tp_size among 1, 2, 4."
    )


def test_kv_heads_that_ranks_do_not_divide(tmp_path: Path) -> None:
    shape = {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 6, "intermediate_size": 120}
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", **shape).folder
    assert refusal(checkpoint, tp_size=4) == (
        "tp_size=4 does not divide the model's number of KV heads (6); choose a tp_size among 1, 2, 3, 6, 12."
    )


def test_an_inner_size_of_fewer_groups_than_ranks(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", intermediate_size=90, head_dim=32).folder
    assert refusal(checkpoint, tp_size=4, quant="int4") == (
        "tp_size=4 cannot cut the model's intermediate_size (90) into units of 32; choose a tp_size among 1, 2."
    )
    build(checkpoint, tmp_path / "engine", tp_size=4, quant="int8")


def test_every_rank_count_that_is_advised_can_be_built_and_no_other(tmp_path: Path) -> None:
    """Heads alone would allow 6, the inner size alone 5: advice that fails the next time is none."""
    shape = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 100}
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", **shape).folder
    advised = [int(n) for n in refusal(checkpoint, tp_size=5).split("among ")[1].rstrip(".").split(", ")]
    possible = []
    for size in range(1, 13):
        try:
            build(checkpoint, tmp_path / f"{size}", tp_size=size)
        except BuildError:
            continue
        possible.append(size)
    assert advised == possible


def test_a_group_size_that_does_not_fit(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", intermediate_size=96).folder
    assert refusal(checkpoint, quant="int4", group_size=64) == (
        "layers.0.mlp.down: 96 columns cannot be cut into int4 groups of 64; "
        "leave --group-size away to use the largest that fits."
    )
    build(checkpoint, tmp_path / "engine", quant="int4")


def test_a_group_size_that_is_none(checkpoint: Path) -> None:
    assert refusal(checkpoint, quant="int4", group_size=48) == (
        "group size 48 is not one of 128, 64, 32; leave --group-size away to use the largest that fits."
    )


def test_a_model_too_narrow_for_its_groups(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", hidden_size=48).folder
    assert refusal(checkpoint, quant="int4", group_size=128) == (
        "layers.0.attention.qkv: 48 columns cannot be cut into int4 groups of 128; "
        "leave --group-size away to use the largest that fits."
    )
    build(checkpoint, tmp_path / "engine", quant="int4")


def test_shares_too_narrow_for_int4(checkpoint: Path) -> None:
    assert refusal(checkpoint, quant="int4", tp_size=4) == (
        "layers.0.attention.o: 16 columns cannot be cut into int4 groups of 32; choose a tp_size among 1, 2."
    )
    build(checkpoint, checkpoint.parent / "engine", quant="int4", tp_size=2)


@pytest.mark.parametrize("quant", ["none", "int8"])
def test_a_group_size_without_int4(checkpoint: Path, quant: str) -> None:
    assert refusal(checkpoint, quant=quant, group_size=32) == (
        f"--group-size 32 is for --quant int4 only, not for {quant}."
    )
