"""RMSNorm, whole on every rank."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from llmserve.layers.layout import Env, Layout
from llmserve.layers.parameter import Parameter, Piece
from llmserve.quant.plain import Plain


class RMSNorm:
    def __init__(self, name: str, source: str, size: int, eps: float, layout: Layout) -> None:
        self.eps = eps
        self.scale = Parameter(name, [Piece(source, 0, size, size)], Plain(layout.dtype), in_features=None)

    def parameters(self) -> Iterator[Parameter]:
        yield self.scale

    def __call__(self, x: Tensor, env: Env) -> Tensor:
        return env.ops.rms_norm(x, self.scale.weight, self.eps)

    def after_add(self, x: Tensor, residual: Tensor, env: Env) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual), fused where the device can."""
        return env.ops.add_rms_norm(x, residual, self.scale.weight, self.eps)
