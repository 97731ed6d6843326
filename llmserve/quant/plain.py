"""No quantisation: the matrix (or vector) itself, in the engine's dtype."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops import Ops


class Plain:
    name = "none"

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def layout(self, rows: int, cols: int | None) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"weight": ((rows,) if cols is None else (rows, cols), self.dtype)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        stored = weight.to(self.dtype)
        if not stored.isfinite().all():
            largest, name = float(weight.abs().max()), str(self.dtype).removeprefix("torch.")
            advice = "correct the checkpoint" if self.dtype == torch.float32 else "use --dtype float32"
            raise BuildError(f"weights as large as {largest:.3g} cannot be stored in {name}; {advice}.")
        return {"weight": stored}

    def matmul(self, ops: Ops, x: Tensor, stored: Mapping[str, Tensor], bias: Tensor | None) -> Tensor:
        return ops.linear(x, stored["weight"], bias)

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        return stored["weight"].float()
