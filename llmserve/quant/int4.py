"""int4, symmetric, one fp16 scale per group of consecutive columns of a row: W ≈ q · s, q in -8 … 7.

The scale of a group is the one of a few candidates below max|group| / 7 with the least squared error: clipping the
largest weight a little often costs less than rounding all the others coarsely. A group whose weights are all within
2e-7 of zero becomes zero, as fp16 has no scale for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.packed import PANEL, PackedMatrix, panel_shape, per_row, to_panels
from llmserve.quant import Layout

CLIPS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.80)


class Int4:
    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self.name = f"int4 (groups of {group_size})"

    def layout(self, rows: int, cols: int) -> Layout:
        if cols % self.group_size:
            raise BuildError(f"{cols} columns cannot be cut into int4 groups of {self.group_size}.")
        panels = panel_shape("u4", rows, cols)
        return {
            "weight": (panels, torch.uint8),
            "scale": ((panels[0], cols // self.group_size, PANEL), torch.float16),
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        largest = float(weight.abs().max())
        if largest > torch.finfo(torch.float16).max:
            raise BuildError(f"weights as large as {largest:.3g} cannot be stored in int4; use --quant int8.")
        groups = weight.float().unflatten(1, (-1, self.group_size))  # [n, groups, g]
        full = groups.abs().amax(dim=2) / 7
        best_q = torch.zeros_like(groups)
        best_scale = torch.zeros_like(full)
        best_error = torch.full_like(full, torch.inf)
        for clip in CLIPS:
            scale = (full * clip).half().float()  # judged as it will be stored
            q = torch.round(groups / scale.where(scale > 0, 1)[:, :, None]).clamp_(-8, 7)
            error = (q * scale[:, :, None] - groups).square_().sum(dim=2)
            better = error < best_error
            best_error = error.where(better, best_error)
            best_scale = scale.where(better, best_scale)
            best_q = q.where(better[:, :, None], best_q)
        q = (best_q + 8).to(torch.uint8).flatten(1)
        return {"weight": to_panels("u4", q), "scale": per_row(best_scale.half())}

    def matrix(self, stored: Mapping[str, Tensor], rows: int, cols: int) -> PackedMatrix:
        return PackedMatrix("u4", rows, cols, stored["weight"], stored["scale"], group_size=self.group_size)
