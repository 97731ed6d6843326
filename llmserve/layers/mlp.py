"""The gated feed-forward block (SwiGLU), its inner dimension cut over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmserve.config import ModelConfig
from llmserve.layers.layout import Layout
from llmserve.layers.linear import ColumnParallel, RowParallel, Stacked
from llmserve.layers.parameter import Parameter
from llmserve.ops import Array, Ops


@dataclass(frozen=True, slots=True)
class MLPSources:
    gate: Stacked
    up: Stacked
    down: Stacked


class GatedMLP:
    def __init__(self, name: str, config: ModelConfig, sources: MLPSources, layout: Layout) -> None:
        inner = layout.cut(config.intermediate_size, "intermediate_size")
        self.gate_up = ColumnParallel(
            f"{name}.gate_up",
            [(sources.gate, inner), (sources.up, inner)],
            config.hidden_size,
            layout,
            bias=config.mlp_bias,
            whole_panels=True,
        )
        self.down = RowParallel(
            f"{name}.down", sources.down, config.intermediate_size, inner, layout, bias=config.mlp_bias
        )

    def parameters(self) -> Iterator[Parameter]:
        yield from self.gate_up.parameters()
        yield from self.down.parameters()

    def __call__(self, x: Array, ops: Ops) -> Array:
        return self.down(ops.silu_gated(x, self.gate_up.weight.handle, self.gate_up.bias), ops)
