"""Every operation in plain torch: correct on any device, fast on none. The oracle of all kernel tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.ops.batch import Batch, Span


class ReferenceOps:
    """See `llmserve.ops.Ops` for what each operation computes."""

    def __init__(self, device: torch.device) -> None:
        self.name = f"reference (torch, {device})"

    def embedding(self, table: Tensor, ids: Tensor, first: int) -> Tensor:
        local = ids - first
        here = (local >= 0) & (local < table.shape[0])
        return table[local.where(here, 0)].masked_fill(~here[:, None], 0)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return weight * normed.to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos[:, None], sin[:, None]  # the same for every head
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def write_kv(self, k: Tensor, v: Tensor, cache: Tensor, slots: Tensor) -> None:
        flat = cache.flatten(1, 2)
        flat[0].index_copy_(0, slots, k)
        flat[1].index_copy_(0, slots, v)

    def paged_attention(self, q: Tensor, cache: Tensor, batch: Batch, scale: float, window: int | None) -> Tensor:
        return torch.cat([self._attend(q, cache, batch, span, scale, window) for span in batch.spans])

    def _attend(self, q: Tensor, cache: Tensor, batch: Batch, span: Span, scale: float, window: int | None) -> Tensor:
        block_size = cache.shape[2]
        start = span.context - span.length  # position of the span's first token
        low = 0 if window is None else max(0, start - window + 1)  # the first position any of its tokens sees
        first_block = low // block_size
        blocks = batch.block_table[span.row, first_block : -(-span.context // block_size)]
        base = first_block * block_size
        # [2, blocks, block_size, kv_heads, D] → [2, kv_heads, positions, D]
        k, v = cache[:, blocks].flatten(1, 2)[:, low - base : span.context - base].transpose(1, 2)
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

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def linear_int8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        # The scale is common to a row of W, so it can be applied to the outputs: one pass over W less. But fp16 cannot
        # hold them before that: its largest number is 65504, and q alone goes to 127.
        wide = torch.float32 if x.dtype == torch.float16 else x.dtype
        out = F.linear(x.to(wide), weight.to(wide)) * scale
        return (out if bias is None else out + bias).to(x.dtype)

    def linear_int4(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, unpack_int4(weight, scale).to(x.dtype), bias)


def unpack_int4(weight: Tensor, scale: Tensor) -> Tensor:
    """[N, K/2] uint8 and [N, K/g] fp16 → [N, K] fp32, the exact values that `linear_int4` multiplies by."""
    q = torch.stack((weight & 15, weight >> 4), dim=-1).flatten(1).to(torch.int8) - 8
    groups = q.float().unflatten(1, (scale.shape[1], -1))
    return (groups * scale.float()[:, :, None]).flatten(1)
