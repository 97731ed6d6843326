"""int4 as a checkpoint has it (GPTQ, AWQ): its own values, zero points and scales, kept without loss.

A build's scheme only: what it stores is what `Int4` with zero points reads. Its bands are rows of bytes, a row's
values, zero points and scales one behind the other, so that they are cut and joined as any other rows are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.quant import Layout
from llmserve.quant.int4 import Int4


class GivenInt4(Int4):
    def __init__(self, group_size: int, zero_points: bool) -> None:
        """Without `zero_points` all of them have to be 8."""
        super().__init__(group_size, zero_points)
        self.given = group_size

    def layout(self, rows: int, cols: int) -> Layout:
        """Whole groups only: a rank's columns have to begin and end where the checkpoint's scales do."""
        if cols % self._group:
            raise BuildError(f"{cols} columns cannot be cut into int4 groups of {self._group}.")
        return super().layout(rows, cols)

    def pack(self, weight: Tensor, cols: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """`weight`: a band of `join`ed rows, which are cut before they are joined."""
        assert cols is None
        groups = weight.shape[1] // joined_width(self._group, self._group)
        q, zero, scale = weight.split((groups * self._group, groups, 2 * groups), dim=1)
        return self._panels(q, scale.clone(memory_format=torch.contiguous_format).view(torch.float16), zero)


def join(q: Tensor, zero: Tensor, scale: Tensor) -> Tensor:
    """W = (q - zero) · scale: q [n, cols] and zero [n, groups] uint8, scale [n, groups] fp16 → uint8 [n, …]."""
    return torch.cat((q, zero, scale.contiguous().view(torch.uint8)), dim=1)


def joined_width(cols: int, group_size: int) -> int:
    """Bytes of a row of `cols` columns."""
    return cols + 3 * (cols // group_size)
