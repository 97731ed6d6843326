"""RMSNorm, whole on every rank."""

from __future__ import annotations

from collections.abc import Iterator

from llmserve.layers.layout import Layout
from llmserve.layers.parameter import Parameter, Piece, Plain
from llmserve.ops import Weights


class RMSNorm:
    def __init__(self, name: str, source: str, size: int, eps: float, layout: Layout) -> None:
        self.eps = eps
        self._scale = Plain(name, [Piece(source, 0, size, size)], layout.dtype)

    def parameters(self) -> Iterator[Parameter]:
        yield self._scale

    @property
    def weight(self) -> Weights:
        return self._scale.handle
