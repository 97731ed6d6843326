"""Self-attention with grouped queries over a paged KV cache, its heads cut over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmserve.config import ModelConfig
from llmserve.layers.layout import Layout
from llmserve.layers.linear import ColumnParallel, RowParallel, Stacked
from llmserve.layers.norm import Norm
from llmserve.layers.parameter import Parameter
from llmserve.ops import Array, Cache, Heads, Ops


@dataclass(frozen=True, slots=True)
class AttentionSources:
    """Where the checkpoint keeps one layer's attention. The norms are those of heads (Qwen3), None without."""

    q: Stacked
    k: Stacked
    v: Stacked
    o: Stacked
    q_norm: str | None = None
    k_norm: str | None = None


class Attention:
    def __init__(
        self, name: str, config: ModelConfig, window: int | None, sources: AttentionSources, layout: Layout
    ) -> None:
        dim, scale = config.head_dim, config.attention_scale or config.head_dim**-0.5
        heads = layout.cut(config.num_heads, "number of attention heads")
        kv_heads = layout.cut_kv_heads(config.num_kv_heads)
        self._shape = (heads[1] - heads[0], kv_heads[1] - kv_heads[0], dim, scale, config.attention_softcap, window)
        q_rows = (heads[0] * dim, heads[1] * dim)
        kv_rows = (kv_heads[0] * dim, kv_heads[1] * dim)
        self.qkv = ColumnParallel(
            f"{name}.qkv",
            [(sources.q, q_rows), (sources.k, kv_rows), (sources.v, kv_rows)],
            config.hidden_size,
            layout,
            bias=config.qkv_bias,
        )
        self.o = RowParallel(f"{name}.o", sources.o, config.num_heads * dim, q_rows, layout, bias=config.o_bias)
        self.q_norm = Norm(f"{name}.q_norm", sources.q_norm, dim, config, layout) if sources.q_norm else None
        self.k_norm = Norm(f"{name}.k_norm", sources.k_norm, dim, config, layout) if sources.k_norm else None

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.qkv, self.o, self.q_norm, self.k_norm):
            if part:
                yield from part.parameters()

    def __call__(self, x: Array, angles: Array, cache: Cache, ops: Ops) -> Array:
        """x [T, hidden_size] → [T, hidden_size]; writes this step's keys and values to `cache` first, then reads."""
        norms = [norm.handle if norm else None for norm in (self.q_norm, self.k_norm)]
        heads = Heads(*self._shape, *norms)
        return self.o(ops.attention(self.qkv(x, ops), heads, angles, cache), ops)
