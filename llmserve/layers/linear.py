"""Matrices cut over ranks: by outputs, or by inputs with a sum over ranks after (Megatron-LM, Shoeybi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from llmserve.layers.layout import Env, Layout
from llmserve.layers.parameter import Parameter, Piece
from llmserve.quant.plain import Plain


@dataclass(frozen=True, slots=True)
class Stacked:
    """One matrix of the checkpoint: rows first … first+count-1 of the tensors `name`.weight and `name`.bias.

    A checkpoint that keeps several matrices in one tensor says so with `first` and `of`, the rows of the whole.
    """

    name: str
    count: int
    first: int = 0
    of: int | None = None

    def piece(self, suffix: str, start: int, stop: int) -> Piece:
        """Rows [start, stop) of this matrix."""
        return Piece(f"{self.name}.{suffix}", self.first + start, self.first + stop, self.of or self.count)


class _Linear:
    def __init__(self, weight: Parameter, bias_pieces: list[Piece], layout: Layout) -> None:
        """No bias where there are no pieces of one."""
        self.weight = weight
        self.bias = (
            Parameter(f"{weight.name}.bias", bias_pieces, Plain(layout.dtype), in_features=None)
            if bias_pieces
            else None
        )

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self.bias:
            yield self.bias


class ColumnParallel(_Linear):
    """Matrices stacked and cut by outputs: y = x [W₁; W₂; …]ᵀ + b, this rank's rows only. No communication."""

    def __init__(
        self, name: str, parts: list[tuple[Stacked, tuple[int, int]]], in_features: int, layout: Layout, *, bias: bool
    ) -> None:
        """`parts`: each matrix and the [start, stop) of its rows that this rank holds."""
        pieces = [matrix.piece("weight", *rows) for matrix, rows in parts]
        super().__init__(
            Parameter(name, pieces, layout.scheme, in_features=in_features),
            [matrix.piece("bias", *rows) for matrix, rows in parts] if bias else [],
            layout,
        )

    def __call__(self, x: Tensor, env: Env) -> Tensor:
        return self.weight.matmul(env.ops, x, self.bias)


class RowParallel(_Linear):
    """One matrix cut by inputs: y = Σ over ranks of x W[:, cols]ᵀ, + b. One all-reduce."""

    def __init__(
        self, name: str, matrix: Stacked, in_features: int, cols: tuple[int, int], layout: Layout, *, bias: bool
    ) -> None:
        """`cols`: the [start, stop) of the inputs that this rank holds."""
        pieces = [matrix.piece("weight", 0, matrix.count)]
        super().__init__(
            Parameter(name, pieces, layout.scheme, in_features=in_features, cols=cols),
            [matrix.piece("bias", 0, matrix.count)] if bias else [],
            layout,
        )

    def __call__(self, x: Tensor, env: Env) -> Tensor:
        y = env.comm.all_reduce(self.weight.matmul(env.ops, x))
        return y if self.bias is None else y + self.bias.weight  # added once, after the sum
