"""Weight-only quantisation: how a matrix is stored (build) and multiplied by (run). One file a scheme.

A scheme knows neither names nor ranks. It packs any band of whole rows, so that a build needs memory for a band and
not for a matrix; every packed tensor therefore has the matrix's rows as its first dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops import Ops

GROUP_SIZES = (128, 64, 32)
"""Columns that share one int4 scale: larger is smaller on disk, smaller is closer to the original."""


class Scheme(Protocol):
    name: str

    def layout(self, rows: int, cols: int | None) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What is stored for a [rows, cols] matrix (cols None: a vector): suffix → (shape, dtype), or BuildError."""

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """A band of rows [n, cols] → the same rows of every stored tensor."""

    def matmul(self, ops: Ops, x: Tensor, stored: Mapping[str, Tensor], bias: Tensor | None) -> Tensor:
        """x [T, cols] → [T, rows]."""

    def unpack(self, stored: Mapping[str, Tensor]) -> Tensor:
        """The matrix that `matmul` multiplies by, [rows, cols] fp32."""


def make_scheme(quant: str, group_size: int | None, dtype: torch.dtype) -> Scheme:
    """The scheme of a layer's matrices, by the name `--quant` knows it by."""
    from llmserve.quant.int4 import Int4
    from llmserve.quant.int8 import Int8
    from llmserve.quant.plain import Plain

    if quant == "int4":
        if group_size not in GROUP_SIZES:
            raise BuildError(f"group size {group_size} is not one of {', '.join(map(str, GROUP_SIZES))}.")
        return Int4(group_size)
    schemes: dict[str, Scheme] = {"none": Plain(dtype), "int8": Int8()}
    return schemes[quant]
