"""The two ends of the model, cut over ranks by vocabulary: token ids to vectors, vectors to logits."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from llmserve.layers.layout import Env, Layout
from llmserve.layers.parameter import Parameter, Piece
from llmserve.quant import Scheme
from llmserve.quant.plain import Plain


def vocabulary_matrix(
    name: str, source: str, vocab_size: int, hidden_size: int, layout: Layout, scheme: Scheme
) -> Parameter:
    """This rank's rows of a [vocab_size, hidden_size] tensor, padded with zeros so that all ranks hold equally many."""
    share = -(-vocab_size // layout.size)
    first = min(layout.rank * share, vocab_size)
    stop = min(first + share, vocab_size)
    pieces = [Piece(source, first, stop, vocab_size)] if stop > first else []
    if stop - first < share:
        pieces.append(Piece(None, 0, share - (stop - first), vocab_size))
    return Parameter(name, pieces, scheme, in_features=hidden_size)


class Embedding:
    def __init__(self, name: str, source: str, vocab_size: int, hidden_size: int, layout: Layout) -> None:
        self.table = vocabulary_matrix(name, source, vocab_size, hidden_size, layout, Plain(layout.dtype))
        self.first = layout.rank * self.table.num_rows

    def parameters(self) -> Iterator[Parameter]:
        yield self.table

    def __call__(self, ids: Tensor, env: Env) -> Tensor:
        """ids [T] → [T, hidden_size]. Every id lies on exactly one rank, so the sum adds zeros only."""
        return env.comm.all_reduce(env.ops.embedding(self.table.weight, ids, self.first))


class Head:
    """The LM head: logits over the whole vocabulary, gathered from all ranks."""

    def __init__(self, weight: Parameter, vocab_size: int) -> None:
        """`weight`: a `vocabulary_matrix`; the embedding's own table where the two are tied."""
        self.weight = weight
        self.vocab_size = vocab_size

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight

    def __call__(self, x: Tensor, env: Env) -> Tensor:
        """x [R, hidden_size] → logits [R, vocab_size] fp32, the same on every rank; padding is cut off."""
        return env.comm.all_gather(self.weight.matmul(env.ops, x).float())[:, : self.vocab_size]
