"""The two ends of the model, cut over ranks by vocabulary: token ids to vectors, vectors to logits."""

from __future__ import annotations

from collections.abc import Iterator

from llmserve.layers.layout import Layout
from llmserve.layers.linear import zeros
from llmserve.layers.parameter import Matrix, Parameter, Piece, Plain
from llmserve.ops import Array, Ops
from llmserve.ops.packed import padded


def vocabulary_rows(source: str, vocab_size: int, layout: Layout) -> list[Piece]:
    """This rank's rows of a [vocab_size, …] tensor, padded with zeros so that all ranks hold equally many panels."""
    share = padded(-(-vocab_size // layout.size))
    first = min(layout.rank * share, vocab_size)
    stop = min(first + share, vocab_size)
    held = [Piece(source, first, stop, vocab_size)] if stop > first else []
    return held + zeros(share - (stop - first))


class Embedding:
    def __init__(self, table: Matrix | Plain, layout: Layout) -> None:
        """`table`: of `vocabulary_rows`; unquantised. A packed one is the head's as well (tied embeddings)."""
        self.table = table
        self.first = layout.rank * table.num_rows

    def parameters(self) -> Iterator[Parameter]:
        yield self.table

    def __call__(self, ops: Ops) -> Array:
        """→ [T, hidden_size] of the step's tokens. Every id lies on exactly one rank, so the sum adds zeros only."""
        return ops.all_reduce(ops.embedding(self.table.handle, self.first))


class Head:
    """The LM head: this rank's share of the logits."""

    def __init__(self, weight: Matrix) -> None:
        self.weight = weight

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight

    def __call__(self, x: Array, ops: Ops) -> Array:
        """x [R, hidden_size] → [R, this rank's rows of the vocabulary]."""
        return ops.linear(x, self.weight.handle, None)
