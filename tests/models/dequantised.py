"""The checkpoint that an engine's weights would make: each number back at its place in the tensor it came from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.layers.layout import make_layout
from llmserve.layers.parameter import Matrix, Parameter
from llmserve.models import make_model
from llmserve.ops.packed import PackedMatrix, unpack


class Taken:
    """`llmserve.ops.Ops`, as far as loading needs it: parameters as numbers."""

    def matrix(self, packed: PackedMatrix) -> Tensor:
        return unpack(packed)

    def tensor(self, stored: Tensor) -> Tensor:
        return stored.float()


def dequantised(engine: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`: the original checkpoint's. Those that the engine quantised become what it stores, on all its ranks."""
    directory = EngineDir.open(engine)
    manifest = directory.manifest
    out = {name: tensor.clone() for name, tensor in tensors.items()}
    for rank in range(manifest.tp_size):
        layout = make_layout(
            manifest.quant, manifest.head_quant, manifest.group_size, manifest.dtype, rank, manifest.tp_size
        )
        shard = directory.shard(rank)
        for parameter in make_model(manifest.model, layout).parameters():
            parameter.load(shard, Taken())  # type: ignore[arg-type]
            if isinstance(parameter, Matrix) and parameter.scheme.name != "none":
                _put_back(parameter, out)
    return out


def _put_back(parameter: Parameter, tensors: dict[str, Tensor]) -> None:
    at = 0
    for piece in parameter.pieces:
        rows = parameter.handle[at : at + piece.rows]
        at += piece.rows
        if piece.source is None:
            assert not rows.any()
            continue
        assert piece.change is None
        tensor = tensors[piece.source].T if piece.transposed else tensors[piece.source]
        cols = slice(*parameter.cols) if parameter.cols else slice(None)
        tensor[piece.start : piece.stop : piece.step, cols] = rows
    assert at == len(parameter.handle)
