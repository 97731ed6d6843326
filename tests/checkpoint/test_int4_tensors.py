"""int4 matrices of GPTQ and AWQ checkpoints: the values, zero points and scales that were packed, by any slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from llmserve.checkpoint.source import Checkpoint, Int4Form
from llmserve.errors import CheckpointError
from tests.checkpoint.int4_files import CONFIGS, packed, random_for

NAME = "model.layers.0.mlp.up_proj"
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, tensors: dict[str, Tensor], **quantization: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"norm": torch.ones(3), **tensors}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"a": 1, "quantization_config": quantization}))
    return folder


@given(
    st.sampled_from(sorted(CONFIGS)), st.integers(1, 6).map(lambda n: 8 * n), st.integers(1, 6).map(lambda n: 32 * n),
    st.sampled_from([32, 64, 128, -1]), st.sampled_from([32, 64]), st.integers(0, 2**32 - 1), st.data(),
)  # fmt: skip
@few
def test_any_rows_and_columns(
    tmp_path: Path, method: str, outputs: int, inputs: int, group_size: int, size: int, seed: int, data: st.DataObject
) -> None:
    """Groups at the end may be shorter than the others; an engine's groups may be smaller than the checkpoint's."""
    stored_size = inputs if group_size == -1 else group_size
    int4 = random_for(method, outputs, inputs, stored_size, seed)
    folder = write(tmp_path / "c", packed(NAME, method, int4), **CONFIGS[method], group_size=group_size)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.names() == [f"{NAME}.weight", "norm"]
    assert checkpoint.config == {"a": 1}
    assert checkpoint.int4 is not None
    assert checkpoint.int4.zero_points == (method != "gptq_sym")
    assert checkpoint.shape(f"{NAME}.weight") == (outputs, inputs)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, outputs)] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, inputs)] * 2)))
    whole = int4.weight()
    assert torch.equal(checkpoint.rows(f"{NAME}.weight", start, stop, (left, right)), whole[start:stop, left:right])
    assert torch.equal(checkpoint.rows(f"{NAME}.weight", 0, outputs), whole)

    if stored_size % size or inputs % size or start == stop:
        return
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, inputs // size)] * 2)))
    if first == last:
        return
    q, zero, scale = checkpoint.groups(f"{NAME}.weight", start, stop, (first * size, last * size), size)
    assert (q.dtype, zero.dtype, scale.dtype) == (torch.uint8, torch.uint8, torch.float16)
    assert torch.equal(q, int4.q[start:stop, first * size : last * size].to(torch.uint8))
    assert zero.shape == scale.shape == (stop - start, last - first)
    values = (q.unflatten(1, (-1, size)).float() - zero.float()[:, :, None]) * scale.float()[:, :, None]
    assert torch.equal(values.flatten(1), whole[start:stop, first * size : last * size])


@pytest.mark.parametrize("group_size, size", [(32, 32), (128, 128), (-1, 128)])
def test_what_an_engine_is_told(tmp_path: Path, group_size: int, size: int) -> None:
    int4 = random_for("awq", 8, 128, 128 if group_size == -1 else group_size, 0)
    checkpoint = Checkpoint.open(
        write(tmp_path / "c", packed(NAME, "awq", int4), **CONFIGS["awq"], group_size=group_size)
    )
    assert checkpoint.int4 == Int4Form("AWQ", size, zero_points=True)
    assert checkpoint.total_bytes == sum(t.nbytes for t in packed(NAME, "awq", int4).values()) + 12


def test_the_file_in_which_autogptq_kept_its_config(tmp_path: Path) -> None:
    int4 = random_for("gptq", 16, 64, 32, 0)
    folder = write(tmp_path / "c", packed(NAME, "gptq", int4))
    (folder / "config.json").write_text("{}")
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "sym": false, "damp_percent": 0.01}')
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.int4 == Int4Form("GPTQ", 32, zero_points=True)
    assert torch.equal(checkpoint.rows(f"{NAME}.weight", 0, 16), int4.weight())
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "sym": false}')
    assert Checkpoint.open(folder).fingerprint() != checkpoint.fingerprint()
    (folder / "quantize_config.json").write_text('{"bits": 3}')
    assert "says bits=3, which" in refusal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder).groups(f"{NAME}.weight", 0, 16, None, 32)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "method, change, sentence",
    [
        ("gptq", {"bits": 8}, "says bits=8, which llmserve does not implement; it reads 4"),
        ("gptq", {"bits": 4.0}, "says bits=4.0, which"),
        ("gptq", {"quant_method": "bitsandbytes"}, "says quant_method='bitsandbytes', which"),
        ("gptq", {"quant_method": None}, "says quant_method=None, which"),
        ("gptq", {"group_size": 48}, "says group_size=48, which llmserve does not implement; it reads multiples of 32"),
        ("gptq", {"group_size": "128"}, "says group_size='128', which"),
        ("gptq", {"checkpoint_format": "marlin"}, "says checkpoint_format='marlin', which"),
        ("gptq", {"is_marlin_format": True}, "says is_marlin_format=True, which"),
        ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, "says dynamic={'+:.*': {'bits': 8}}, which"),
        ("gptq", {"pack_dtype": "int64"}, "says pack_dtype='int64', which"),
        ("gptq", {"rotation": "hadamard"}, "says rotation='hadamard', which"),
        ("gptq", {"adapter": {"name": "eora"}}, "says adapter={'name': 'eora'}, which"),
        ("gptq", {"sym": 1}, "says sym=1, which"),
        ("gptq", {"sparsity": 0.5}, "says sparsity=0.5, of which llmserve does not know whether"),
        ("awq", {"version": "gemv"}, "says version='gemv', which llmserve does not implement; it reads gemm"),
        ("awq", {"zero_point": False}, "says zero_point=False, which"),
        ("awq", {"bits": 3}, "says bits=3, which"),
        ("awq", {"smoothing": 1}, "says smoothing=1, of which"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_named(tmp_path: Path, method: str, change: dict[str, Any], sentence: str) -> None:
    tensors = packed(NAME, method, random_for(method, 16, 64, 32, 0))
    assert Checkpoint.open(write(tmp_path / "c", tensors, **CONFIGS[method], group_size=32)).int4 is not None
    quantization = {**CONFIGS[method], "group_size": 32, **change}
    assert f"quantization_config {sentence}" in refusal(write(tmp_path / "c", tensors, **quantization))


def test_keys_that_change_nothing_are_no_obstacle(tmp_path: Path) -> None:
    tensors = packed(NAME, "gptq", random_for("gptq", 16, 64, 32, 0))
    more = {"static_groups": False, "true_sequential": True, "model_seqlen": 2048, "use_exllama": True, "unknown": None}
    assert Checkpoint.open(write(tmp_path / "c", tensors, **CONFIGS["gptq"], group_size=32, **more)).int4


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {})
    (folder / "config.json").write_text('{"quantization_config": "gptq"}')
    assert "config.json says quantization_config='gptq', which is not an object" in refusal(folder)


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({f"{NAME}.{name}": value})


@pytest.mark.parametrize(
    "method, change, sentence",
    [
        ("gptq", lambda t: t.pop(f"{NAME}.scales"), f"has {NAME}.qweight but no {NAME}.scales"),
        ("awq", lambda t: t.pop(f"{NAME}.qzeros"), f"has {NAME}.qweight but no {NAME}.qzeros"),
        ("awq", lambda t: t.clear(), "has a quantization_config for AWQ, but the checkpoint holds no qweight"),
        ("gptq", put("weight", torch.ones(16, 64)), f"has both {NAME}.qweight and {NAME}.weight"),
        ("gptq", put("qweight", torch.ones(8, 16)), f"{NAME}.qweight is float32 [8, 16], not a matrix of int32"),
        ("gptq", put("scales", torch.ones(3, 16)), f"{NAME}.scales has shape [3, 16], but {NAME}.qweight and"),
        ("awq", put("qzeros", torch.ones(2, 3, dtype=torch.int32)), f"{NAME}.qzeros has shape [2, 3], but"),
        ("awq", put("scales", torch.ones(2, 16, dtype=torch.int8)), f"{NAME}.scales is int8 [2, 16], not numbers"),
        ("awq", put("scales", torch.full((2, 16), torch.nan)), f"{NAME}.scales holds NaN or infinity"),
        ("awq", put("scales", torch.full((2, 16), 0.1)), f"{NAME}.scales holds numbers that float16, in which"),
        ("gptq", put("g_idx", torch.arange(64).flip(0).int() // 32), f"{NAME}.g_idx gives inputs to groups out"),
        ("gptq", put("g_idx", torch.zeros(63).int()), f"{NAME}.g_idx is int32 [63], not 64 of int32"),
        ("gptq", put("qzeros", torch.full((2, 2), -1, dtype=torch.int32)), f"{NAME}.qzeros holds a zero point that"),
        ("gptq_sym", put("qzeros", torch.zeros(2, 2, dtype=torch.int32)), f"says sym=True, but {NAME}.qzeros holds"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, method: str, change: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    tensors = packed(NAME, method, random_for(method, 16, 64, 32, 0))
    change(tensors)
    assert sentence in refusal(write(tmp_path / "c", tensors, **CONFIGS[method], group_size=32))


def test_scales_of_bfloat16_that_float16_holds(tmp_path: Path) -> None:
    int4 = random_for("awq", 16, 64, 32, 0)
    int4.scale = int4.scale.bfloat16()
    folder = write(tmp_path / "c", packed(NAME, "awq", int4), **CONFIGS["awq"], group_size=32)
    assert torch.equal(Checkpoint.open(folder).rows(f"{NAME}.weight", 0, 16), int4.weight())
    assert torch.equal(Checkpoint.open(folder).groups(f"{NAME}.weight", 0, 16, None, 32)[2].float(), int4.scale.float())
