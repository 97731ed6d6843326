"""No quantisation: numbers in the engine's dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.cpu.packing import largest_magnitude
from llmserve.ops.packed import DTYPES, PackedMatrix, panel_shape, to_panels
from llmserve.quant import Layout


class Plain:
    name = "none"
    given: int | None = None
    group_size: int | None = None
    by_row = False

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._kind = next(kind for kind, stored in DTYPES.items() if stored == dtype)

    def layout(self, rows: int, cols: int) -> Layout:
        return {"weight": (panel_shape(self._kind, rows, cols), self.dtype)}

    def pack(self, weight: Tensor, cols: tuple[int, int] | None = None) -> dict[str, Tensor]:
        stored = weight[:, slice(*cols)] if cols else weight
        return {"weight": to_panels(self._kind, narrow(stored, self.dtype))}

    def matrix(self, stored: Mapping[str, Tensor], rows: int, cols: int) -> PackedMatrix:
        return PackedMatrix(self._kind, rows, cols, stored["weight"])


def narrow(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """In the engine's dtype. BuildError where that cannot hold it."""
    stored = weight.to(dtype)
    if not math.isfinite(largest_magnitude(stored)):
        largest, name = float(weight.abs().max()), str(dtype).removeprefix("torch.")
        advice = "correct the checkpoint" if dtype == torch.float32 else "use --dtype float32"
        raise BuildError(f"weights as large as {largest:.3g} cannot be stored in {name}; {advice}.")
    return stored
