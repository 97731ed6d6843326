"""What an engine computes with is what the checkpoint's matrices were rounded to, whatever the number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.packed import unpack
from llmserve.quant import make_scheme
from tests.forward import Forward, deviation
from tests.thread_ranks import run_ranks
from tests.tiny import build, tiny_checkpoint

PROMPT, STEPS = list(range(20, 45)), [5, 3, 8]
GROUP = 32


def rounded(name: str, weight: Tensor, quant: str) -> Tensor:
    """A checkpoint's matrix after quantisation."""
    if weight.ndim == 1 or "embed_tokens" in name:
        return weight  # vectors and the table are not quantised
    scheme = make_scheme("int8" if "lm_head" in name else quant, GROUP, torch.float32)
    return unpack(scheme.matrix(scheme.pack(weight), *weight.shape))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_a_quantised_engine_computes_with_the_rounded_matrices(tmp_path: Path, quant: str, ranks: int) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", attention_bias=True, head_dim=32).folder
    config = {"group_size": GROUP} if quant == "int4" else {}
    quantised = build(checkpoint, tmp_path / "quantised", quant=quant, tp_size=ranks, **config)

    copy = tmp_path / "rounded"
    shutil.copytree(checkpoint, copy)
    weights = load_file(checkpoint / "model.safetensors")
    save_file({n: rounded(n, w, quant).contiguous() for n, w in weights.items()}, copy / "model.safetensors")
    expected = Forward(build(copy, tmp_path / "plain")).prefill_and_steps(PROMPT, STEPS)

    for config in ({"activations": "float32"}, {"kernels": "reference"}):
        got = run_ranks(ranks, lambda comm, c=config: Forward(quantised, comm, **c).prefill_and_steps(PROMPT, STEPS))
        assert deviation(got[0], expected) < 1e-4, config
    original = Forward(build(checkpoint, tmp_path / "original")).prefill_and_steps(PROMPT, STEPS)
    assert deviation(got[0], original) > 1e-3  # or there was no rounding to get right


def test_a_tied_head_is_quantised_though_the_table_is_not(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", tie=True).folder
    shard = load_file(build(checkpoint, tmp_path / "engine", quant="int8") / "rank0.safetensors")
    table = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(shard["embedding.weight"], table)
    scale = shard["head.scale"].flatten()[: len(table), None]
    stored = {name: shard[f"head.{name}"] for name in ("weight", "scale")}
    head = unpack(make_scheme("int8", None, torch.float32).matrix(stored, *table.shape))
    assert ((head - table).abs() <= scale * 0.50001).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_engines_stay_near_float32(tmp_path: Path, dtype: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", attention_bias=True, mlp_bias=True).folder
    exact = Forward(build(checkpoint, tmp_path / "exact")).prefill_and_steps(PROMPT, STEPS)
    for quant in ("none", "int8"):
        engine = build(checkpoint, tmp_path / quant, quant=quant, dtype=dtype)
        got = Forward(engine).prefill_and_steps(PROMPT, STEPS)
        assert got.dtype == torch.float32
        assert float((got - exact).square().mean().sqrt() / exact.std()) < 0.1


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_rows_of_several_dtypes_lose_nothing_where_they_meet(tmp_path: Path, quant: str) -> None:
    """q, k and v share panels: what is left of one waits for the next, which may be of a narrower dtype."""
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint").folder
    file = checkpoint / "model.safetensors"
    weights = {name: w.bfloat16().float() if "v_proj" in name else w for name, w in load_file(file).items()}
    save_file(weights, file)
    wide = build(checkpoint, tmp_path / "wide", quant=quant, tp_size=2)
    save_file({name: w.bfloat16() if "v_proj" in name else w for name, w in weights.items()}, file)
    mixed = build(checkpoint, tmp_path / "mixed", quant=quant, tp_size=2)
    for rank in range(2):
        theirs, ours = (load_file(engine / f"rank{rank}.safetensors") for engine in (wide, mixed))
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_float64_beyond_float32_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", intermediate_size=48).folder
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    for row in (0, 31, 32, 47):
        name = "model.layers.0.mlp.up_proj.weight"
        wide = weights[name].double()
        wide[row, 5] = 1e300
        save_file({**weights, name: wide}, file)
        with pytest.raises(BuildError, match="1e\\+300"):
            build(checkpoint, tmp_path / f"engine{row}", quant="int8")
