"""Every operation in plain torch: correct on any device, fast on none. The oracle of all kernel tests.

It computes each call at once, for the step that `begin` was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.ops import Activation, Heads, Normalisation, Rotation, Routing
from llmserve.ops.batch import Batch, Span
from llmserve.ops.packed import PackedMatrix, from_panels, padded, plain_per_row


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored matrix with its rows one after the other, still quantised: W = (q - zero) · scale."""

    q: Tensor  # [N, K], of int4 padded to whole panels, as its last group may be
    cols: int
    scale: Tensor | None  # [N, groups]; None: q is W itself
    zero: Tensor | float

    @property
    def rows(self) -> int:
        return self.q.shape[0]

    def dense(self, dtype: torch.dtype) -> Tensor:
        if self.scale is None:
            return self.q.to(dtype)
        # In fp32: fp16 cannot hold q · anything above 65504 / 127.
        groups = self.q.float().unflatten(1, (self.scale.shape[1], -1))
        return ((groups - self.zero) * self.scale.float()[:, :, None]).flatten(1)[:, : self.cols].to(dtype)

    def part(self, first: int, count: int) -> Matrix:
        """Rows first … first+count-1."""
        rows = slice(first, first + count)
        zero = self.zero[rows] if isinstance(self.zero, Tensor) else self.zero
        return Matrix(self.q[rows], self.cols, None if self.scale is None else self.scale[rows], zero)


class Angles(NamedTuple):
    cos: Tensor  # [T, D/2]
    sin: Tensor
    growth: Tensor  # [T]: of queries


class Routes(NamedTuple):
    chosen: Tensor  # [T, per token] int64, ascending
    weights: Tensor  # alike
    shared: Tensor | None  # [T, 1]


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
        rows, cols = packed.rows, padded(packed.cols) if packed.kind == "u4" else packed.cols
        q = from_panels(packed.kind, packed.weight, rows, cols).to(self._device)
        if packed.scale is None:
            return Matrix(q, packed.cols, None, 0)
        if packed.kind == "u8":
            return Matrix(q, packed.cols, packed.scale.flatten()[: packed.rows, None].to(self._device), 128)
        zero = 8 if packed.zero is None else plain_per_row(packed.zero, packed.rows).float()[:, :, None]
        zero = zero.to(self._device) if isinstance(zero, Tensor) else zero
        return Matrix(q, packed.cols, plain_per_row(packed.scale, packed.rows).to(self._device), zero)

    def tensor(self, stored: Tensor) -> Tensor:
        return stored.to(self._device)

    def embedding(self, table: Tensor | Matrix, first: int, scale: float, positions: Tensor | None) -> Tensor:
        rows = table.q if isinstance(table, Matrix) else table
        local = self._batch.tokens - first
        here = (local >= 0) & (local < rows.shape[0])
        x = rows[local.where(here, 0)].masked_fill(~here[:, None], 0)
        if scale != 1:
            x = x * torch.tensor(scale, dtype=x.dtype)  # rounded as x is, which transformers does too
        return x if positions is None else x + positions[self._batch.positions]

    def norm(self, x: Tensor, norm: Normalisation) -> tuple[Tensor, Tensor]:
        return normalise(x, norm), x

    def add_norm(
        self, x: Tensor, residual: Tensor, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Tensor, Tensor]:
        total = (x if post is None else normalise(x, post)) + residual
        return normalise(total, norm), total

    def wanted_norm(
        self, x: Tensor, residual: Tensor, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Tensor, Tensor]:
        rows = torch.cat((self._batch.logit_rows, self._batch.hidden_rows))
        return self.add_norm(x[rows], residual[rows], norm, post)

    def last_norm(
        self, x: Tensor, residual: Tensor, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Tensor, Tensor]:
        normed, _ = self.add_norm(x, residual, norm, post)
        return normed[: len(self._batch.logit_rows)], normed[len(self._batch.logit_rows) :]

    def angles(self, rotation: Rotation) -> Angles:
        batch = self._batch
        variants = [s.variant for s in batch.spans for _ in range(s.length)]
        turns = rotation.inverse_frequencies.to(self._device)[variants]
        angles = batch.positions[:, None].float() * turns
        growth = torch.ones_like(batch.positions, dtype=torch.float32)
        if rotation.logn_from:
            growth = ((batch.positions + 1).double().log() / math.log(rotation.logn_from)).clamp(min=1).float()
        factor = torch.where(turns == 0, 1.0, rotation.factor)
        return Angles(angles.cos() * factor, angles.sin() * factor, growth)

    def attention(self, qkv: Tensor, heads: Heads, angles: Angles, cache: Tensor) -> Tensor:
        """cache: [2, blocks, block_size, kv_heads, D]."""
        dim = heads.head_dim
        sizes = [heads.heads * dim, heads.kv_heads * dim, heads.kv_heads * dim]
        q, k, v = (part.unflatten(1, (-1, dim)) for part in qkv.split(sizes, dim=-1))
        if heads.q_norm is not None and heads.k_norm is not None:
            q, k = normalise(q, heads.q_norm), normalise(k, heads.k_norm)
        q, k = rotate(q, angles.cos, angles.sin), rotate(k, angles.cos, angles.sin)
        q = (q * angles.growth[:, None, None]).to(q.dtype)
        write_kv(k, v, cache, self._batch.slots)
        return torch.cat([attend(q, cache, self._batch, span, heads) for span in self._batch.spans]).flatten(1)

    def linear(self, x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
        used = x[:, : weight.cols]  # a gate's outputs are padded to whole panels
        return F.linear(used, weight.dense(x.dtype), bias)

    def gated(self, x: Tensor, gate_up: Matrix, bias: Tensor | None, activation: Activation) -> Tensor:
        gate, up = self.linear(x, gate_up, bias).chunk(2, dim=-1)
        return self.activate(gate, activation) * up

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")

    def softcap(self, logits: Tensor, cap: float) -> Tensor:
        return cap * torch.tanh(logits / cap)

    def route(self, x: Tensor, router: Matrix, routing: Routing) -> Routes:
        outputs = self.linear(x, router, None)
        weights = outputs[:, : routing.experts].float().softmax(dim=-1)
        order = weights.argsort(dim=-1, descending=True, stable=True)
        chosen = order[:, : routing.per_token].sort(dim=-1).values
        weights = weights.gather(1, chosen)
        if routing.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        shared = outputs[:, routing.experts :].sigmoid() if routing.shared else None
        return Routes(chosen, weights.to(x.dtype), shared)

    def experts(
        self, x: Tensor, routes: Routes, gate_up: Matrix, down: Matrix, shared: Tensor | None, routing: Routing
    ) -> Tensor:
        hidden = x.shape[1]
        out = torch.zeros_like(x)
        inputs, outputs = (m.rows // routing.experts for m in (gate_up, down))
        for e in sorted(set(routes.chosen.flatten().tolist())):
            tokens, place = (routes.chosen == e).nonzero(as_tuple=True)
            inner = self.gated(x[tokens], gate_up.part(e * inputs, inputs), None, routing.activation)
            given = self.linear(inner, down.part(e * outputs, hidden), None)
            out.index_add_(0, tokens, given * routes.weights[tokens, place, None])
        return out if shared is None or routes.shared is None else out + routes.shared * shared


def normalise(x: Tensor, norm: Normalisation) -> Tensor:
    """x [..., H]."""
    wide = x.float()
    if norm.bias is not None:
        return F.layer_norm(wide, wide.shape[-1:], norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    if norm.weight.dtype == torch.float32:
        return (norm.weight * normed).to(x.dtype)
    return norm.weight * normed.to(x.dtype)


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


def attend(q: Tensor, cache: Tensor, batch: Batch, span: Span, heads: Heads) -> Tensor:
    """One span's rows of q [T, heads, D] over its own blocks → [length, heads, D]."""
    block_size, window = cache.shape[2], heads.window
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
    if heads.softcap:
        return _capped(rows, k, v, mask, heads).transpose(0, 1)
    out = F.scaled_dot_product_attention(rows[None], k[None], v[None], mask, scale=heads.scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: Heads) -> Tensor:
    """q [heads, length, D], k, v [kv_heads, positions, D] → [heads, length, D], with capped scores."""
    group = heads.heads // heads.kv_heads
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = heads.softcap * torch.tanh(q @ k.transpose(1, 2) * (heads.scale / heads.softcap))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=wide).to(q.dtype) @ v
