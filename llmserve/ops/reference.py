"""Every operation in plain torch: correct on any device, fast on none. The oracle of all kernel tests.

It computes each call at once, for the step that `begin` was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.ops import Heads
from llmserve.ops.batch import Batch, Span
from llmserve.ops.packed import PackedMatrix, from_panels, plain_per_row


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored matrix with its rows one after the other, still quantised: W = (q - zero) · scale."""

    q: Tensor  # [N, K]
    scale: Tensor | None  # [N, groups]; None: q is W itself
    zero: Tensor | float

    def dense(self, dtype: torch.dtype) -> Tensor:
        if self.scale is None:
            return self.q.to(dtype)
        # In fp32: fp16 cannot hold q · anything above 65504 / 127.
        groups = self.q.float().unflatten(1, (self.scale.shape[1], -1))
        return ((groups - self.zero) * self.scale.float()[:, :, None]).flatten(1).to(dtype)


class ReferenceOps:
    """See `llmserve.ops.Ops` for what each operation computes."""

    def __init__(self, device: torch.device, all_reduce: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.name = f"reference (torch, {device})"
        self.all_reduce = all_reduce
        self._device = device
        self._batch: Batch

    def begin(self, batch: Batch) -> None:
        self._batch = batch

    def matrix(self, packed: PackedMatrix) -> Matrix:
        q = from_panels(packed.kind, packed.weight, packed.rows, packed.cols).to(self._device)
        if packed.scale is None:
            return Matrix(q, None, 0)
        if packed.kind == "u8":
            return Matrix(q, packed.scale.flatten()[: packed.rows, None].to(self._device), 128)
        zero = 8 if packed.zero is None else plain_per_row(packed.zero, packed.rows).float()[:, :, None]
        zero = zero.to(self._device) if isinstance(zero, Tensor) else zero
        return Matrix(q, plain_per_row(packed.scale, packed.rows).to(self._device), zero)

    def tensor(self, stored: Tensor) -> Tensor:
        return stored.to(self._device)

    def embedding(self, table: Tensor | Matrix, first: int) -> Tensor:
        rows = table.q if isinstance(table, Matrix) else table
        local = self._batch.tokens - first
        here = (local >= 0) & (local < rows.shape[0])
        return rows[local.where(here, 0)].masked_fill(~here[:, None], 0)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return rms_norm(x, weight, eps), x

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return rms_norm(total, weight, eps), total

    def last_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = self._batch.logit_rows
        return rms_norm(x[rows] + residual[rows], weight, eps)

    def angles(self, inverse_frequencies: Tensor) -> tuple[Tensor, Tensor]:
        angles = self._batch.positions[:, None].float() * inverse_frequencies.to(self._device)
        return angles.cos(), angles.sin()

    def attention(self, qkv: Tensor, heads: Heads, angles: tuple[Tensor, Tensor], cache: Tensor) -> Tensor:
        """cache: [2, blocks, block_size, kv_heads, D]."""
        dim = heads.head_dim
        sizes = [heads.heads * dim, heads.kv_heads * dim, heads.kv_heads * dim]
        q, k, v = (part.unflatten(1, (-1, dim)) for part in qkv.split(sizes, dim=-1))
        if heads.q_norm is not None and heads.k_norm is not None:
            q, k = rms_norm(q, heads.q_norm, heads.norm_eps), rms_norm(k, heads.k_norm, heads.norm_eps)
        q, k = rotate(q, *angles), rotate(k, *angles)
        write_kv(k, v, cache, self._batch.slots)
        spans = self._batch.spans
        return torch.cat([attend(q, cache, self._batch, s, heads.scale, heads.window) for s in spans]).flatten(1)

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
        used = x[:, : weight.q.shape[1]]  # a gate's outputs are padded to whole panels
        return F.linear(used, weight.dense(x.dtype), bias)

    def silu_gated(self, x: Tensor, gate_up: Matrix, bias: Tensor | None) -> Tensor:
        gate, up = self.linear(x, gate_up, bias).chunk(2, dim=-1)
        return F.silu(gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, heads, D] by angles [T, D/2], the same for every head."""
    cos, sin = cos[:, None], sin[:, None]
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def write_kv(k: Tensor, v: Tensor, cache: Tensor, slots: Tensor) -> None:
    """k, v [T, kv_heads, D] → cache at slots [T] int64."""
    flat = cache.flatten(1, 2)
    flat[0].index_copy_(0, slots, k.to(cache.dtype))
    flat[1].index_copy_(0, slots, v.to(cache.dtype))


def attend(q: Tensor, cache: Tensor, batch: Batch, span: Span, scale: float, window: int | None) -> Tensor:
    """One span's rows of q [T, heads, D] over its own blocks → [length, heads, D]."""
    block_size = cache.shape[2]
    start = span.context - span.length  # position of the span's first token
    low = 0 if window is None else max(0, start - window + 1)  # the first position any of its tokens sees
    first_block = low // block_size
    blocks = batch.block_table[span.row, first_block : -(-span.context // block_size)]
    base = first_block * block_size
    # [2, blocks, block_size, kv_heads, D] → [2, kv_heads, positions, D]
    k, v = cache[:, blocks].flatten(1, 2)[:, low - base : span.context - base].transpose(1, 2).to(q.dtype)
    mask = None
    if span.length > 1:
        query = torch.arange(start, span.context, device=q.device)[:, None]
        key = torch.arange(low, span.context, device=q.device)
        mask = key <= query
        if window is not None:
            mask &= key > query - window
    rows = q[span.first : span.first + span.length].transpose(0, 1)
    out = F.scaled_dot_product_attention(rows[None], k[None], v[None], mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)
