"""A rank loads the model it was promised, tensor for tensor, or nothing: whole files can still hold the wrong thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmserve.checkpoint.disk import blake3_file
from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.errors import EngineDirError
from tests.forward import Forward
from tests.tiny import build

NORM = "layers.1.mlp_norm.weight"


def alter(engine: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Another shard under the same name, with size and checksum put right in the manifest."""
    shard = engine / "rank0.safetensors"
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)
    manifest = json.loads((engine / "engine.json").read_text())
    manifest["files"][shard.name] = {"size": shard.stat().st_size, "blake3": blake3_file(shard, threads=1)}
    (engine / "engine.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(NORM), f"the engine lacks the tensor {NORM};"),
        (lambda t: t.update(extra=torch.ones(1)), "rank0.safetensors holds tensors this model has not: extra."),
        (lambda t: t.update({NORM: torch.ones(63)}), rf"the engine's tensor {NORM} is \[63\] torch.float32, expected"),
        (lambda t: t.update({NORM: torch.ones(64).half()}), rf"the engine's tensor {NORM} is \[64\] torch.float16,"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_a_shard_that_is_not_the_models_is_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    engine = build(checkpoint, tmp_path / "engine")
    alter(engine, change)
    with pytest.raises(EngineDirError, match=message):
        Forward(engine)


def test_the_same_tensors_written_by_another_program_do(checkpoint: Path, tmp_path: Path) -> None:
    engine = build(checkpoint, tmp_path / "engine")
    before = Forward(engine).logits([1, 2, 3])
    alter(engine, lambda tensors: None)
    assert torch.equal(Forward(engine).logits([1, 2, 3]), before)


def test_shards_that_changed_places_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    engine = build(checkpoint, tmp_path / "engine", tp_size=2)
    one, two = engine / "rank0.safetensors", engine / "rank1.safetensors"
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with pytest.raises(EngineDirError, match=r"rank0\.safetensors is the shard of rank 1, not of rank 0; build"):
        EngineDir.open(engine).shard(0)


def test_a_family_that_nobody_knows(checkpoint: Path, tmp_path: Path) -> None:
    engine = build(checkpoint, tmp_path / "engine")
    manifest = json.loads((engine / "engine.json").read_text())
    manifest["model"]["family"] = "../x"
    (engine / "engine.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineDirError, match=r"the engine's family is '\.\./x', of which llmserve knows nothing"):
        Forward(engine)
