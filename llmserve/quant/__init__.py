"""Weight-only quantisation: how a matrix is stored. One file a scheme.

A scheme knows neither names nor ranks, and not how to multiply: that is the device table's business (ops), which takes
what a scheme stored as a `PackedMatrix`. It packs any band of whole panels of 32 rows, so that a build needs memory for
a band and not for a matrix; every packed tensor therefore has the matrix's panels as its first dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.packed import PackedMatrix

GROUP_SIZES = (128, 64, 32)
"""Columns that share one int4 scale: larger is smaller on disk, smaller is closer to the original."""

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


class Scheme(Protocol):
    name: str
    given: int | None
    """Columns that share a scale, where `pack` takes rows that the checkpoint has quantised; None: it takes numbers."""

    def layout(self, rows: int, cols: int) -> Layout:
        """What is stored for a [rows, cols] matrix: suffix → (shape, dtype), or BuildError."""

    group_size: int | None
    """Columns that share a scale; None: all, or there are no scales."""
    by_row: bool
    """A scale belongs to a whole row: `pack` takes whole rows, also where a rank holds but some columns."""

    def pack(self, weight: Tensor, cols: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """A band of rows [n, cols], n a multiple of 32 but for the last band → its panels of every stored tensor.

        `cols`: the [start, stop) that is stored of these rows; None: all.
        """

    def matrix(self, stored: Mapping[str, Tensor], rows: int, cols: int) -> PackedMatrix:
        """What was stored, as the device tables take it."""


def make_scheme(quant: str, group_size: int | None, dtype: torch.dtype, zero_points: bool = False) -> Scheme:
    """The scheme of a layer's matrices, by the name `--quant` knows it by. `zero_points`: of int4."""
    from llmserve.quant.int4 import Int4
    from llmserve.quant.int8 import Int8
    from llmserve.quant.plain import Plain

    if quant == "int4":
        if group_size not in GROUP_SIZES:
            raise BuildError(f"group size {group_size} is not one of {', '.join(map(str, GROUP_SIZES))}.")
        return Int4(group_size, zero_points)
    schemes: dict[str, Scheme] = {"none": Plain(dtype), "int8": Int8()}
    return schemes[quant]
