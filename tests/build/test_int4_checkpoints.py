"""Checkpoints that are int4 already (GPTQ, AWQ): their engines hold just their numbers, on any ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmserve.checkpoint.build import build_engine, describe
from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig
from llmserve.layers.layout import make_layout
from llmserve.layers.parameter import Matrix
from llmserve.models import make_model
from llmserve.ops.packed import unpack
from tests.build.refusal import refusal
from tests.checkpoint.int4_files import CONFIGS, quantise_folder
from tests.forward import Forward, deviation
from tests.thread_ranks import run_ranks
from tests.tiny import build, edit_config, tiny_checkpoint

PROMPT, STEPS = list(range(20, 45)), [5, 3, 8]
SHAPE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def matrices(engine: Path, rank: int) -> dict[str, Tensor]:
    """What each matrix of a rank stands for, in fp32, whatever it is stored in."""
    m = EngineDir.open(engine).manifest
    layout = make_layout(m.quant, m.head_quant, m.group_size, m.dtype, rank, m.tp_size, m.zero_points)
    shard = load_file(engine / f"rank{rank}.safetensors")
    out = {}
    for p in make_model(m.model, layout).parameters():
        if isinstance(p, Matrix):
            assert p.width is not None
            stored = {n.rpartition(".")[2]: shard[n] for n in p.layout()}
            out[p.name] = unpack(p.scheme.matrix(stored, p.num_rows, p.width))
    return out


def int4_checkpoint(tmp_path: Path, method: str, group_size: int, family: str = "llama", head: bool = False,
                    **config: Any) -> tuple[Path, Path]:  # fmt: skip
    """A packed checkpoint, and one of the numbers that it stands for."""
    source = tiny_checkpoint(tmp_path / "source", family, **{**SHAPE, **config}).folder
    quantise_folder(source, tmp_path / "packed", tmp_path / "plain", method, group_size, head=head)
    return tmp_path / "packed", tmp_path / "plain"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("method", sorted(CONFIGS))
def test_an_engines_matrices_are_the_checkpoints_bit_for_bit(
    tmp_path: Path, method: str, group_size: int, ranks: int
) -> None:
    """Queries, keys and values fused, gates and ups padded to panels, the others cut by columns."""
    packed, plain = int4_checkpoint(tmp_path, method, group_size)
    engine = build(packed, tmp_path / "int4", tp_size=ranks)
    expected = build(plain, tmp_path / "float", tp_size=ranks)
    manifest = EngineDir.open(engine).manifest
    assert (manifest.quant, manifest.head_quant) == ("int4", "none")
    assert manifest.zero_points == (method != "gptq_sym")
    assert manifest.group_size == (64 if ranks == 2 and group_size == 128 else group_size)
    for rank in range(ranks):
        ours, theirs = matrices(engine, rank), matrices(expected, rank)
        assert ours.keys() == theirs.keys()
        for name, weight in theirs.items():
            assert torch.equal(ours[name], weight), name


@pytest.mark.parametrize(
    "method, family, config",
    [
        ("gptq", "qwen2", {}),
        ("awq", "qwen2", {"tie": True}),
        ("gptq_sym", "qwen3", {"attention_bias": True}),
        ("awq", "llama", {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 192}),
        ("gptq_v2", "llama", {"vocab_size": 97}),
        ("gptq", "qwen3_moe", MOE),
        ("awq", "qwen2_moe", {**MOE, "shared_expert_intermediate_size": 64}),
    ],
)
def test_an_engine_computes_what_the_numbers_say(
    tmp_path: Path, method: str, family: str, config: dict[str, Any]
) -> None:
    packed, plain = int4_checkpoint(tmp_path, method, 32, family, **config)
    expected = Forward(build(plain, tmp_path / "float")).prefill_and_steps(PROMPT, STEPS)
    for ranks in (1, 2) if config.get("num_attention_heads") != 6 else (1, 3):
        engine = build(packed, tmp_path / f"int4-{ranks}", tp_size=ranks)
        for how in ({"activations": "float32"}, {"kernels": "reference"}):
            got = run_ranks(ranks, lambda comm, e=engine, h=how: Forward(e, comm, **h).prefill_and_steps(PROMPT, STEPS))
            assert deviation(got[0], expected) < 1e-4, how


def test_groups_of_whole_rows_are_cut_into_smaller_ones(tmp_path: Path) -> None:
    packed, plain = int4_checkpoint(tmp_path, "gptq", -1)
    engine, expected = build(packed, tmp_path / "int4"), build(plain, tmp_path / "float")
    assert EngineDir.open(engine).manifest.group_size == 128
    assert all(
        torch.equal(a, b) for a, b in zip(matrices(engine, 0).values(), matrices(expected, 0).values(), strict=True)
    )


@pytest.mark.parametrize("method", ["awq", "gptq_sym"])
def test_a_head_that_is_int4_stays_so(tmp_path: Path, method: str) -> None:
    packed, plain = int4_checkpoint(tmp_path, method, 32, head=True)
    engine = build(packed, tmp_path / "int4")
    assert EngineDir.open(engine).manifest.head_quant == "int4"
    assert torch.equal(matrices(engine, 0)["head"], matrices(build(plain, tmp_path / "float"), 0)["head"])
    assert "the checkpoint's LM head is int4 (" in refusal(packed, head_quant="int8")


@pytest.mark.parametrize("head_quant", ["int8", "int4"])
def test_a_head_of_numbers_is_quantised_only_where_that_is_asked_for(tmp_path: Path, head_quant: str) -> None:
    packed, plain = int4_checkpoint(tmp_path, "awq", 32)
    engine = build(packed, tmp_path / "int4", head_quant=head_quant, quant="int4")
    expected = build(plain, tmp_path / "float", head_quant=head_quant, quant="int4", group_size=32)
    assert torch.equal(matrices(engine, 0)["head"], matrices(expected, 0)["head"])


def test_bands_of_rows_give_what_whole_tensors_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 32, num_attention_heads=6, num_key_value_heads=3, hidden_size=192)
    whole = build(packed, tmp_path / "whole", tp_size=3)
    monkeypatch.setattr("llmserve.layers.parameter.BAND_BYTES", 4 * 192 * 33)
    banded = build(packed, tmp_path / "banded", tp_size=3)
    for rank in range(3):
        shard = f"rank{rank}.safetensors"
        assert (banded / shard).read_bytes() == (whole / shard).read_bytes()


def test_the_report_says_what_it_is(tmp_path: Path) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 64)
    report = build_engine(Checkpoint.open(packed), tmp_path / "engine", BuildConfig())
    assert ("layers in", "int4, groups of 64 with zero points") in describe(report)
    assert ("LM head in", "float32") in describe(report)
    assert report.source_bytes == sum(t.nbytes for t in load_file(packed / "model.safetensors").values())


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["none", "int8"])
def test_another_quantisation_is_refused(tmp_path: Path, quant: str) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 32)
    assert refusal(packed, quant=quant) == (
        f"the checkpoint's weights are int4 (AWQ) and cannot be had as --quant {quant} without rounding them twice; "
        "leave --quant away, or use the model's BF16 or F16 checkpoint."
    )


def test_groups_that_do_not_divide_the_checkpoints(tmp_path: Path) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 32)
    assert refusal(packed, group_size=64).startswith("--group-size 64 does not divide the checkpoint's groups of 32;")
    assert EngineDir.open(build(packed, tmp_path / "e", group_size=32)).manifest.group_size == 32


def test_a_matrix_that_was_left_as_it_was(tmp_path: Path) -> None:
    packed, plain = int4_checkpoint(tmp_path, "gptq_sym", 32)
    tensors, numbers = load_file(packed / "model.safetensors"), load_file(plain / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj"
    kept = {n: t for n, t in tensors.items() if not n.startswith(f"{name}.")}
    save_file({**kept, f"{name}.weight": numbers[f"{name}.weight"]}, packed / "model.safetensors")
    assert refusal(packed).startswith(f"{name}.weight is not quantised in the checkpoint, though other matrices are,")


def test_biases_of_zeros_that_autogptq_adds(tmp_path: Path) -> None:
    packed, _ = int4_checkpoint(tmp_path, "gptq", 32)
    expected = build(packed, tmp_path / "expected")
    tensors = load_file(packed / "model.safetensors")
    bias = "model.layers.0.self_attn.o_proj.bias"
    save_file({**tensors, bias: torch.zeros(128)}, packed / "model.safetensors")
    biased = build(packed, tmp_path / "biased")
    assert (biased / "rank0.safetensors").read_bytes() == (expected / "rank0.safetensors").read_bytes()
    save_file({**tensors, bias: torch.ones(128)}, packed / "model.safetensors")
    assert f"does not use ({bias}, 1 in all)" in refusal(packed)


def test_ranks_that_would_cut_through_groups(tmp_path: Path) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 32, head_dim=16)
    assert "cannot be cut into int4 groups of 32; choose a tp_size among 1, 2" in refusal(packed, tp_size=4)


def test_packed_weights_without_a_config_that_says_how(tmp_path: Path) -> None:
    packed, _ = int4_checkpoint(tmp_path, "awq", 32)
    edit_config(packed, without=("quantization_config",))
    assert refusal(packed).startswith(f"{packed} has no tensor model.layers.0.self_attn.q_proj.weight;")
