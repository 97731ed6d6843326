"""RMSNorm, or LayerNorm where a model has biases in its norms; whole on every rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmserve.config import ModelConfig
from llmserve.layers.layout import Layout
from llmserve.layers.parameter import Parameter, Piece, Plain
from llmserve.ops import Normalisation


class Norm:
    def __init__(self, name: str, source: str, size: int, config: ModelConfig, layout: Layout) -> None:
        """`source`: the checkpoint's tensors are `source`.weight and, of a LayerNorm, `source`.bias."""
        offset = config.norm_offset
        # Where 1 is added to weights around 0, bf16 would lose most of what they say.
        dtype = torch.float32 if offset else layout.dtype
        change = (lambda rows: rows.float() + offset) if offset else None
        self._eps = config.norm_eps
        self._weight = Plain(name, [Piece(f"{source}.weight", 0, size, size, change=change)], dtype)
        self._bias = (
            Plain(f"{name}.bias", [Piece(f"{source}.bias", 0, size, size)], layout.dtype) if config.layer_norm else None
        )

    def parameters(self) -> Iterator[Parameter]:
        yield self._weight
        if self._bias:
            yield self._bias

    @property
    def handle(self) -> Normalisation:
        return Normalisation(self._weight.handle, self._eps, self._bias and self._bias.handle)
