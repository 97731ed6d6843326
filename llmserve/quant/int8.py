"""int8, symmetric, one scale per output channel: W ≈ q · s with s = max|row| / 127."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops import Ops


class Int8:
    name = "int8"

    def layout(self, rows: int, cols: int | None) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        assert cols is not None, "vectors are stored plain"
        return {"weight": ((rows, cols), torch.int8), "scale": ((rows,), torch.float32)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        wide = weight.float()
        scale = wide.abs().amax(dim=1) / 127
        if not scale.isfinite().all():  # a float64 beyond float32
            largest = float(weight.abs().max())
            raise BuildError(f"weights as large as {largest:.3g} cannot be stored in int8; correct the checkpoint.")
        # A row of zeros (vocabulary padding) has scale 0; any divisor gives its zeros back.
        q = torch.round(wide / scale.where(scale > 0, 1)[:, None]).clamp_(-127, 127)
        return {"weight": q.to(torch.int8), "scale": scale}

    def matmul(self, ops: Ops, x: Tensor, stored: Mapping[str, Tensor], bias: Tensor | None) -> Tensor:
        return ops.linear_int8(x, stored["weight"], stored["scale"], bias)

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        return stored["weight"].float() * stored["scale"][:, None]
