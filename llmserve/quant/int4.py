"""int4, symmetric, one fp16 scale per group of consecutive columns of a row: W ≈ q · s, q in -8 … 7.

The scale of a group is the one of a few candidates below max|group| / 7 with the least squared error: clipping the
largest weight a little often costs less than rounding all the others coarsely. A group whose weights are all within
2e-7 of zero becomes zero, as fp16 has no scale for it.

An engine that holds matrices with zero points (see `given_int4`) stores them of every int4 matrix; ours are all 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.cpu.packing import can_pack, largest_magnitude, pack_int4
from llmserve.ops.packed import PANEL, PackedMatrix, padded, panel_shape, per_row, to_panels
from llmserve.quant import Layout

CLIPS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.80)


class Int4:
    given: int | None = None
    by_row = False
    group_size: int | None

    def __init__(self, group_size: int, zero_points: bool = False) -> None:
        self.group_size = self._group = group_size
        self.zero_points = zero_points
        self.name = f"int4 (groups of {group_size})"

    def layout(self, rows: int, cols: int) -> Layout:
        if padded(cols) % self._group:  # what is padded anyway may complete the last group
            raise BuildError(f"{cols} columns cannot be cut into int4 groups of {self._group}.")
        panels = panel_shape("u4", rows, cols)
        groups = (panels[0], padded(cols) // self._group, PANEL)
        zero: Layout = {"zero": (groups, torch.uint8)} if self.zero_points else {}
        return {"weight": (panels, torch.uint8), "scale": (groups, torch.float16), **zero}

    def pack(self, weight: Tensor, cols: tuple[int, int] | None = None) -> dict[str, Tensor]:
        weight = weight[:, slice(*cols)] if cols else weight
        largest = largest_magnitude(weight)
        if largest > torch.finfo(torch.float16).max:
            raise BuildError(f"weights as large as {largest:.3g} cannot be stored in int4; use --quant int8.")
        if can_pack(weight):
            packed, scales = pack_int4(weight, self._group, CLIPS)
            return self._stored(packed, scales, self._eights(len(weight), scales.shape[1]))
        wide = F.pad(weight.float(), (0, padded(weight.shape[1]) - weight.shape[1]))
        groups = wide.unflatten(1, (-1, self._group))  # [n, groups, g]
        full = groups.abs().amax(dim=2) / 7
        best_q = torch.zeros_like(groups)
        best_scale = torch.zeros_like(full)
        best_error = torch.full_like(full, torch.inf, dtype=torch.float64)
        for clip in CLIPS:
            scale = (full * clip).half().float()  # judged as it will be stored
            q = torch.round(groups / scale.where(scale > 0, 1)[:, :, None]).clamp_(-8, 7)
            error = (q * scale[:, :, None] - groups).double().square_().sum(dim=2)
            better = error < best_error
            best_error = error.where(better, best_error)
            best_scale = scale.where(better, best_scale)
            best_q = q.where(better[:, :, None], best_q)
        q = (best_q + 8).to(torch.uint8).flatten(1)
        return self._panels(q, best_scale.half(), self._eights(*best_scale.shape))

    def _eights(self, rows: int, groups: int) -> Tensor | None:
        return torch.full((rows, groups), 8, dtype=torch.uint8) if self.zero_points else None

    def _panels(self, q: Tensor, scale: Tensor, zero: Tensor | None) -> dict[str, Tensor]:
        return self._stored(to_panels("u4", q), per_row(scale), zero)

    def _stored(self, panels: Tensor, scale: Tensor, zero: Tensor | None) -> dict[str, Tensor]:
        """`zero`: of each row's groups, where they are stored."""
        zeros = {"zero": per_row(zero)} if self.zero_points and zero is not None else {}
        return {"weight": panels, "scale": scale, **zeros}

    def matrix(self, stored: Mapping[str, Tensor], rows: int, cols: int) -> PackedMatrix:
        zero = stored["zero"] if self.zero_points else None
        return PackedMatrix("u4", rows, cols, stored["weight"], stored["scale"], zero, self._group)
