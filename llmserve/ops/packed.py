"""A matrix as an engine stores it: panels of 32 rows, in the order in which kernels multiply them.

The layout is described in ops/cpu/csrc/matrix.hpp. It is a permutation of the matrix's own bytes, so it can be undone:
devices with kernels of another taste take the plain rows from it when they load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 32
"""Rows side by side; rows and columns are padded with weights of zero to multiples of it."""

Kind = Literal["u8", "u4", "bf16", "f16", "f32"]

DTYPES: dict[Kind, torch.dtype] = {
    "u8": torch.uint8,
    "u4": torch.uint8,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
}
UNITS: dict[Kind, int] = {"u8": 4, "u4": 8, "bf16": 2, "f16": 1, "f32": 1}
"""Columns that lie together."""

OFFSETS: dict[Kind, int] = {"u8": 128, "u4": 8}
"""What is stored for a weight of zero."""


def padded(n: int) -> int:
    return -(-n // PANEL) * PANEL


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """W [rows, cols]. u8: W = (q - 128) · scale of the row; u4: (q - zero) · scale of the row's group of columns."""

    kind: Kind
    rows: int
    cols: int
    weight: Tensor  # see `panel_shape`
    scale: Tensor | None = None  # u8: [panels, 32] fp32; u4: [panels, groups, 32] fp16
    zero: Tensor | None = None  # u4: [panels, groups, 32] uint8; None: 8 throughout
    group_size: int = 0  # u4: columns that share a scale


def panel_shape(kind: Kind, rows: int, cols: int) -> tuple[int, ...]:
    """Of the weight tensor: [panels, units of columns, 32, bytes or numbers of a unit]."""
    return (padded(rows) // PANEL, padded(cols) // UNITS[kind], PANEL, 4 if kind == "u4" else UNITS[kind])


def to_panels(kind: Kind, values: Tensor) -> Tensor:
    """[n, cols] of what is stored (u4: one a byte) → [n / 32, …]; n and cols padded here."""
    rows, cols = values.shape
    wide = F.pad(values, (0, padded(cols) - cols, 0, padded(rows) - rows), value=OFFSETS.get(kind, 0))
    panels = wide.unflatten(0, (-1, PANEL)).unflatten(2, (-1, UNITS[kind])).transpose(1, 2)
    if kind == "u4":
        panels = panels[..., :4] | (panels[..., 4:] << 4)
    return panels.contiguous()


def from_panels(kind: Kind, panels: Tensor, rows: int, cols: int) -> Tensor:
    """The inverse of `to_panels`."""
    if kind == "u4":
        panels = torch.cat((panels & 15, panels >> 4), dim=-1)
    return panels.transpose(1, 2).flatten(2).flatten(0, 1)[:rows, :cols].contiguous()


def per_row(values: Tensor) -> Tensor:
    """[n, groups] of what belongs to each row's groups → [n / 32, groups, 32]; n padded with zeros."""
    rows = len(values)
    return F.pad(values, (0, 0, 0, padded(rows) - rows)).unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()


def plain_per_row(values: Tensor, rows: int) -> Tensor:
    """The inverse of `per_row`."""
    return values.transpose(1, 2).flatten(0, 1)[:rows].contiguous()


def unpack(packed: PackedMatrix) -> Tensor:
    """W [rows, cols] fp32, the exact values that `linear` multiplies by."""
    values = from_panels(packed.kind, packed.weight, packed.rows, padded(packed.cols)).float()
    if packed.scale is None:
        return values[:, : packed.cols]
    if packed.kind == "u8":
        return (values[:, : packed.cols] - 128) * packed.scale.flatten()[: packed.rows, None]
    zero = 8 if packed.zero is None else plain_per_row(packed.zero, packed.rows).float()[:, :, None]
    scale = plain_per_row(packed.scale, packed.rows).float()[:, :, None]
    return ((values.unflatten(1, (-1, packed.group_size)) - zero) * scale).flatten(1)[:, : packed.cols]
