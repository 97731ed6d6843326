"""int8, symmetric, one scale per output channel: W ≈ q · s with s = max|row| / 127.

Ranks that share a row share its scale: they hold what one rank would.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.cpu.packing import can_pack, pack_int8
from llmserve.ops.packed import PANEL, PackedMatrix, panel_shape, per_row, to_panels
from llmserve.quant import Layout


class Int8:
    name = "int8"
    given: int | None = None
    group_size: int | None = None
    by_row = True

    def layout(self, rows: int, cols: int) -> Layout:
        panels = panel_shape("u8", rows, cols)
        return {"weight": (panels, torch.uint8), "scale": ((panels[0], PANEL), torch.float32)}

    def pack(self, weight: Tensor, cols: tuple[int, int] | None = None) -> dict[str, Tensor]:
        if can_pack(weight):
            packed, scale = pack_int8(weight, cols or (0, weight.shape[1]))
            return {"weight": packed, "scale": scale}
        wide = weight.float()
        scale = wide.abs().amax(dim=1) / 127
        if not scale.isfinite().all():  # a float64 beyond float32
            largest = float(weight.abs().max())
            raise BuildError(f"weights as large as {largest:.3g} cannot be stored in int8; correct the checkpoint.")
        wide = wide[:, slice(*cols)] if cols else wide
        # A row of zeros (vocabulary padding) has scale 0; any divisor gives its zeros back.
        q = torch.round(wide / scale.where(scale > 0, 1)[:, None]).clamp_(-127, 127)
        return {"weight": to_panels("u8", (q + 128).to(torch.uint8)), "scale": per_row(scale[:, None])[:, 0]}

    def matrix(self, stored: Mapping[str, Tensor], rows: int, cols: int) -> PackedMatrix:
        return PackedMatrix("u8", rows, cols, stored["weight"], stored["scale"])
