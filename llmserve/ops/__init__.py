"""The device table: every operation a model is computed with, one signature each.

`reference` (torch, any device) is at once the fallback and the oracle that other tables are tested against. The table
is chosen once at start and logged; nothing falls back silently. Operations know nothing of layers, ranks or requests.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from llmserve.ops.batch import Batch


class Ops(Protocol):
    """T: tokens of the step. H: hidden size. N, K: a matrix's rows (outputs) and columns (inputs). D: head size."""

    name: str

    def embedding(self, table: Tensor, ids: Tensor, first: int) -> Tensor:
        """table [N, H] holds token ids first … first+N-1; ids [T] int64 → [T, H], zero where the id is elsewhere."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., H], weight [H] → x / rms(x) · weight, computed in fp32 (Zhang & Sennrich 2019)."""

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual)."""

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x [T, heads, D] by angles [T, D/2] fp32; halves are paired (i, i + D/2), as in Llama."""

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """[T, 2·I] → silu(first half) · second half, [T, I] (SwiGLU, Shazeer 2020)."""

    def write_kv(self, k: Tensor, v: Tensor, cache: Tensor, slots: Tensor) -> None:
        """k, v [T, kv_heads, D] → cache [2, blocks, block_size, kv_heads, D] at slots [T] int64."""

    def paged_attention(self, q: Tensor, cache: Tensor, batch: Batch, scale: float, window: int | None) -> Tensor:
        """Causal attention of q [T, heads, D] over each sequence's own blocks → [T, heads, D].

        Grouped queries: head h reads KV head h // (heads / kv_heads). `window`: only the last that many positions,
        the token's own included (Mistral's sliding window).
        """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [T, K] · weight [N, K]ᵀ + bias [N] → [T, N]."""

    def linear_int8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """weight [N, K] int8, scale [N] fp32: W = weight · scale, row by row."""

    def linear_int4(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """weight [N, K/2] uint8, scale [N, K/g] fp16: groups of g columns share a scale.

        Byte j holds column 2j in its low half and 2j + 1 in its high half, each as q + 8 with q in -8 … 7.
        """


def choose(device: torch.device) -> Ops:
    """The table for a device. The reference runs on any; native kernels register here when they exist."""
    from llmserve.ops.reference import ReferenceOps

    return ReferenceOps(device)
