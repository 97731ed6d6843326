"""Feed-forward blocks, their inner dimension cut over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from llmserve.config import ModelConfig
from llmserve.layers.layout import Layout
from llmserve.layers.linear import ColumnParallel, RowParallel, Stacked
from llmserve.layers.parameter import Parameter
from llmserve.ops import Array, Ops


class FeedForward(Protocol):
    def parameters(self) -> Iterator[Parameter]: ...

    def __call__(self, x: Array, ops: Ops) -> Array:
        """x [T, hidden_size] → [T, hidden_size]."""


class FeedForwardSources(Protocol):
    """Where the checkpoint keeps one layer's block, and what kind of block that makes."""

    def make(self, name: str, config: ModelConfig, layout: Layout) -> FeedForward: ...


@dataclass(frozen=True, slots=True)
class MLPSources:
    """Of a gated block: down(activation(gate(x)) · up(x)) (SwiGLU and its kin, Shazeer 2020)."""

    gate: Stacked
    up: Stacked
    down: Stacked

    def make(self, name: str, config: ModelConfig, layout: Layout) -> FeedForward:
        return GatedMLP(name, config, config.intermediate_size, self, layout)


@dataclass(frozen=True, slots=True)
class PlainMLPSources:
    """Of a block without a gate: down(activation(up(x)))."""

    up: Stacked
    down: Stacked

    def make(self, name: str, config: ModelConfig, layout: Layout) -> FeedForward:
        return PlainMLP(name, config, self, layout)


class GatedMLP:
    def __init__(self, name: str, config: ModelConfig, size: int, sources: MLPSources, layout: Layout) -> None:
        """`size`: of the inner dimension."""
        inner = layout.cut_panels(size, "intermediate_size")
        bias = config.mlp_bias
        self._activation = config.activation
        self.gate_up = ColumnParallel(
            f"{name}.gate_up",
            [(sources.gate, inner), (sources.up, inner)],
            config.hidden_size,
            layout,
            bias=bias,
            whole_panels=True,
        )
        self.down = RowParallel(f"{name}.down", sources.down, size, inner, layout, bias=bias)

    def parameters(self) -> Iterator[Parameter]:
        yield from self.gate_up.parameters()
        yield from self.down.parameters()

    def __call__(self, x: Array, ops: Ops) -> Array:
        return ops.all_reduce(self.part(x, ops))

    def part(self, x: Array, ops: Ops) -> Array:
        """This rank's part of the sum."""
        return self.down.part(ops.gated(x, self.gate_up.weight.handle, self.gate_up.bias, self._activation), ops)


class PlainMLP:
    def __init__(self, name: str, config: ModelConfig, sources: PlainMLPSources, layout: Layout) -> None:
        size, bias = config.intermediate_size, config.mlp_bias
        inner = layout.cut_panels(size, "intermediate_size")
        self._activation = config.activation
        self.up = ColumnParallel(f"{name}.up", [(sources.up, inner)], config.hidden_size, layout, bias=bias)
        self.down = RowParallel(f"{name}.down", sources.down, size, inner, layout, bias=bias)

    def parameters(self) -> Iterator[Parameter]:
        yield from self.up.parameters()
        yield from self.down.parameters()

    def __call__(self, x: Array, ops: Ops) -> Array:
        return self.down(ops.activate(self.up(x, ops), self._activation), ops)
