"""Mixture of experts in place of a feed-forward block: each token goes to the few experts that its router chooses.

Every rank holds a share of every expert's inner dimension, and all ranks route alike, as they see the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmserve.config import ModelConfig
from llmserve.layers.layout import Layout
from llmserve.layers.linear import Stacked, zeros
from llmserve.layers.mlp import FeedForward, GatedMLP, MLPSources
from llmserve.layers.parameter import Matrix, Parameter, Piece
from llmserve.ops import Array, Ops, Routing
from llmserve.ops.packed import padded
from llmserve.quant import make_scheme


@dataclass(frozen=True, slots=True)
class ExpertsSources:
    """Where the checkpoint keeps one layer's experts. `shared`: the expert that sees every token, behind a gate."""

    router: Stacked
    experts: tuple[MLPSources, ...]
    shared: MLPSources | None = None
    shared_gate: Stacked | None = None

    def make(self, name: str, config: ModelConfig, layout: Layout) -> FeedForward:
        return ExpertsMLP(name, config, self, layout)


class ExpertsMLP:
    def __init__(self, name: str, config: ModelConfig, sources: ExpertsSources, layout: Layout) -> None:
        experts, hidden = config.experts, config.hidden_size
        assert experts is not None
        inner = layout.cut_panels(experts.intermediate_size, "intermediate size of an expert")
        count = inner[1] - inner[0]
        # Too small to be worth rounding, and what it rounds wrongly goes to another expert.
        exact = make_scheme("none", None, layout.dtype)
        routes = [*sources.router.pieces("weight", 0, experts.count)]
        if sources.shared_gate is not None:
            routes += sources.shared_gate.pieces("weight", 0, 1)
        self._routing = Routing(
            experts.count, experts.per_token, experts.renormalise, sources.shared_gate is not None, config.activation
        )
        self.router = Matrix(f"{name}.router", routes, exact, hidden)
        gate_up: list[Piece] = []
        down: list[Piece] = []
        for expert in sources.experts:
            for half in (expert.gate, expert.up):
                gate_up += [*half.pieces("weight", *inner), *zeros(padded(count) - count)]
            down += [*expert.down.pieces("weight", 0, hidden), *zeros(padded(hidden) - hidden)]
        # All experts' matrices in one, each beginning a panel of its own: thousands of small tensors load slowly.
        self.gate_up = Matrix(f"{name}.gate_up", gate_up, layout.scheme, hidden)
        self.down = Matrix(f"{name}.down", down, layout.scheme, experts.intermediate_size, inner)
        self.shared = sources.shared and GatedMLP(f"{name}.shared", config, experts.shared_size, sources.shared, layout)

    def parameters(self) -> Iterator[Parameter]:
        yield from (self.router, self.gate_up, self.down)
        if self.shared:
            yield from self.shared.parameters()

    def __call__(self, x: Array, ops: Ops) -> Array:
        routes = ops.route(x, self.router.handle, self._routing)
        shared = self.shared.part(x, ops) if self.shared else None
        return ops.all_reduce(ops.experts(x, routes, self.gate_up.handle, self.down.handle, shared, self._routing))
