"""The two ends of the model, cut over ranks by vocabulary: token ids to vectors, vectors to logits."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import functional

from llmserve.layers.layout import Layout
from llmserve.layers.linear import zeros
from llmserve.layers.parameter import Matrix, Parameter, Piece, Plain
from llmserve.ops import Array, Ops
from llmserve.ops.packed import padded


def vocabulary_rows(source: str, vocab_size: int, layout: Layout, *, unit: bool = False) -> list[Piece]:
    """This rank's rows of a [vocab_size, …] tensor, padded with zeros so that all ranks hold equally many panels.

    `unit`: each row is scaled to length 1.
    """
    share = padded(-(-vocab_size // layout.size))
    first = min(layout.rank * share, vocab_size)
    stop = min(first + share, vocab_size)
    change = (lambda rows: functional.normalize(rows.float())) if unit else None
    held = [Piece(source, first, stop, vocab_size, change=change)] if stop > first else []
    return held + zeros(share - (stop - first))


class Embedding:
    def __init__(self, table: Matrix | Plain, positions: Plain | None, scale: float, layout: Layout) -> None:
        """`table`: of `vocabulary_rows`; unquantised. A packed one is the head's as well (tied embeddings).

        `positions`: a vector for each, that is added. `scale`: of the tokens' vectors.
        """
        self.table = table
        self._first = layout.rank * table.num_rows
        self._positions = positions
        self._adds_positions = layout.rank == 0  # or the sum would hold them once a rank
        self._scale = scale

    def parameters(self) -> Iterator[Parameter]:
        yield self.table
        if self._positions:
            yield self._positions

    def __call__(self, ops: Ops) -> Array:
        """→ [T, hidden_size] of the step's tokens. Every id lies on exactly one rank, so the sum adds zeros only."""
        positions = self._positions.handle if self._positions and self._adds_positions else None
        return ops.all_reduce(ops.embedding(self.table.handle, self._first, self._scale, positions))


class Head:
    """The LM head: this rank's share of the logits."""

    def __init__(self, weight: Matrix, softcap: float) -> None:
        """`softcap`: logits become cap · tanh(logit / cap); 0: they stay."""
        self.weight = weight
        self._softcap = softcap

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight

    def __call__(self, x: Array, ops: Ops) -> Array:
        """x [R, hidden_size] → [R, this rank's rows of the vocabulary]."""
        logits = ops.linear(x, self.weight.handle, None)
        return ops.softcap(logits, self._softcap) if self._softcap else logits
