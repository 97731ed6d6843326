"""Matrices cut over ranks: by outputs, or by inputs with a sum over ranks after (Megatron-LM, Shoeybi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmserve.layers.layout import Layout
from llmserve.layers.parameter import Matrix, Parameter, Piece, Plain
from llmserve.ops import Array, Ops, Weights
from llmserve.ops.packed import padded


@dataclass(frozen=True, slots=True)
class Stacked:
    """One matrix of the checkpoint: rows first … first+count-1 of the tensors `name`.weight and `name`.bias.

    A checkpoint that keeps several matrices in one tensor says so with `first` and `of`, the rows of the whole.
    """

    name: str
    count: int
    first: int = 0
    of: int | None = None
    transposed: bool = False  # the weight's rows are this matrix's columns (GPT-2)

    def pieces(self, suffix: str, start: int, stop: int) -> list[Piece]:
        """Rows [start, stop) of this matrix."""
        return [self._piece(suffix, start, stop, 1)]

    def _piece(self, suffix: str, start: int, stop: int, step: int) -> Piece:
        transposed = self.transposed and suffix == "weight"
        at = self.first
        return Piece(f"{self.name}.{suffix}", at + start, at + stop, self.of or self.count, step, transposed)


@dataclass(frozen=True, slots=True)
class StackedHeads(Stacked):
    """Queries or keys, of whose `head_dim` rows a head the first `turning` are rotated, maybe neighbours together.

    They are stored in the one order that kernels turn, (i, i + head_dim / 2) together, what does not turn behind what
    does in both halves: scores do not depend on the order, as long as queries and keys have the same.
    """

    head_dim: int = 0
    turning: int = 0
    interleaved: bool = False

    def pieces(self, suffix: str, start: int, stop: int) -> list[Piece]:
        """Rows [start, stop), of whole heads."""
        turn, dim = self.turning, self.head_dim
        if turn == 0 or (turn == dim and not self.interleaved):
            return [self._piece(suffix, start, stop, 1)]
        firsts = (0, turn - 1, 2) if self.interleaved else (0, turn // 2, 1)
        seconds = (1, turn, 2) if self.interleaved else (turn // 2, turn, 1)
        middle = (turn + dim) // 2
        order = [firsts, (turn, middle, 1), seconds, (middle, dim, 1)]
        heads = range(start, stop, dim)
        return [self._piece(suffix, at + a, at + b, step) for at in heads for a, b, step in order if b > a]


def zeros(rows: int) -> list[Piece]:
    """That many rows of nothing."""
    return [Piece(None, 0, rows, rows)] if rows else []


class _Linear:
    def __init__(self, weight: Matrix, bias: Plain | None) -> None:
        self.weight = weight
        self._bias = bias

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self._bias:
            yield self._bias

    @property
    def bias(self) -> Weights | None:
        return self._bias and self._bias.handle


class ColumnParallel(_Linear):
    """Matrices stacked and cut by outputs: y = x [W₁; W₂; …]ᵀ + b, this rank's rows only. No communication."""

    def __init__(
        self,
        name: str,
        parts: list[tuple[Stacked, tuple[int, int]]],
        in_features: int,
        layout: Layout,
        *,
        bias: bool,
        whole_panels: bool = False,
    ) -> None:
        """`parts`: each matrix and the [start, stop) of its rows that this rank holds.

        `whole_panels`: each part is padded with rows of zeros so that the next begins a panel of its own.
        """

        def pieces(suffix: str) -> list[Piece]:
            out: list[Piece] = []
            for matrix, (start, stop) in parts:
                count = stop - start
                out += [*matrix.pieces(suffix, start, stop), *zeros(padded(count) - count if whole_panels else 0)]
            return out

        super().__init__(
            Matrix(name, pieces("weight"), layout.scheme, in_features),
            Plain(f"{name}.bias", pieces("bias"), layout.dtype) if bias else None,
        )

    def __call__(self, x: Array, ops: Ops) -> Array:
        return ops.linear(x, self.weight.handle, self.bias)


class RowParallel(_Linear):
    """One matrix cut by inputs: y = Σ over ranks of x W[:, cols]ᵀ, + b. One all-reduce."""

    def __init__(
        self, name: str, matrix: Stacked, in_features: int, cols: tuple[int, int], layout: Layout, *, bias: bool
    ) -> None:
        """`cols`: the [start, stop) of the inputs that this rank holds."""
        super().__init__(
            Matrix(name, matrix.pieces("weight", 0, matrix.count), layout.scheme, in_features, cols),
            Plain(f"{name}.bias", matrix.pieces("bias", 0, matrix.count), layout.dtype) if bias else None,
        )
        self._adds_bias = layout.rank == 0  # or the sum would hold it once a rank

    def __call__(self, x: Array, ops: Ops) -> Array:
        return ops.all_reduce(self.part(x, ops))

    def part(self, x: Array, ops: Ops) -> Array:
        """This rank's part of the sum."""
        return ops.linear(x, self.weight.handle, self.bias if self._adds_bias else None)
