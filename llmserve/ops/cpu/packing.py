"""Rounding a checkpoint's rows to int8 or int4 panels with the C++ kernels: what `quant` does in torch, but faster.

Both give the same bytes (tests/numerics/test_packing.py). Knows nothing of schemes' names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from llmserve.ops.cpu import load_kernels
from llmserve.ops.packed import PANEL, padded, panel_shape

_SOURCES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def can_pack(rows: Tensor) -> bool:
    """Whether there are kernels, and kernels for such numbers."""
    try:
        load_kernels()
    except ImportError:
        return False
    return rows.dtype in _SOURCES and rows.device.type == "cpu"


def pack_int8(rows: Tensor, cols: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """rows [n, K], finite → panels of columns [cols[0], cols[1]), and a scale for each row, [n / 32, 32] fp32."""
    count = len(rows)
    weight = torch.empty(panel_shape("u8", count, cols[1] - cols[0]), dtype=torch.uint8)
    scale = torch.empty((len(weight), PANEL), dtype=torch.float32)
    _pack(rows, 0, cols, (), weight, scale)
    return weight, scale


def pack_int4(rows: Tensor, group: int, clips: Sequence[float]) -> tuple[Tensor, Tensor]:
    """rows [n, K], finite → panels, and scales [n / 32, groups, 32] fp16. `clips`: see `quant.int4`."""
    count, width = rows.shape
    weight = torch.empty(panel_shape("u4", count, width), dtype=torch.uint8)
    scale = torch.empty((len(weight), padded(width) // group, PANEL), dtype=torch.float16)
    _pack(rows, group, (0, width), clips, weight, scale)
    return weight, scale


def largest_magnitude(x: Tensor) -> float:
    """Of all numbers in x; infinity or NaN, if there is one among them. 0 of none."""
    if not x.numel():
        return 0.0
    if not can_pack(x):
        return float(x.abs().max())
    x = x.contiguous()
    return load_kernels().largest_magnitude(
        source=_SOURCES[x.dtype], data=x.data_ptr(), count=x.numel(), threads=_threads()
    )


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _pack(
    rows: Tensor, group: int, cols: tuple[int, int], clips: Sequence[float], weight: Tensor, scale: Tensor
) -> None:
    rows = rows.contiguous()
    load_kernels().pack_rows(
        source=_SOURCES[rows.dtype], data=rows.data_ptr(), rows=len(rows), cols=rows.shape[1], group=group,
        first=cols[0], last=cols[1], clips=list(clips), weight=weight.data_ptr(), scale=scale.data_ptr(),
        threads=_threads(),
    )  # fmt: skip
