"""The two ends of the model, cut over ranks by vocabulary: token ids to vectors, vectors to logits."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from llmserve.layers.layout import Env, Layout
from llmserve.layers.parameter import Parameter, Piece
from llmserve.quant import Scheme
from llmserve.quant.plain import Plain


def _vocabulary_share(source: str, vocab_size: int, layout: Layout) -> tuple[list[Piece], int]:
    """This rank's rows of a [vocab_size, …] tensor, padded with zeros so that all ranks hold equally many."""
    share = -(-vocab_size // layout.size)
    first = min(layout.rank * share, vocab_size)
    stop = min(first + share, vocab_size)
    pieces = [Piece(source, first, stop, vocab_size)] if stop > first else []
    if stop - first < share:
        pieces.append(Piece(None, 0, share - (stop - first), vocab_size))
    return pieces, layout.rank * share


class Embedding:
    def __init__(self, name: str, source: str, vocab_size: int, hidden_size: int, layout: Layout) -> None:
        pieces, self.first = _vocabulary_share(source, vocab_size, layout)
        self.table = Parameter(name, pieces, Plain(layout.dtype), in_features=hidden_size)

    def parameters(self) -> Iterator[Parameter]:
        yield self.table

    def __call__(self, ids: Tensor, env: Env) -> Tensor:
        """ids [T] → [T, hidden_size]. Every id lies on exactly one rank, so the sum adds zeros only."""
        return env.comm.all_reduce(env.ops.embedding(self.table.weight, ids, self.first))


class Head:
    """The LM head: logits over the whole vocabulary, gathered from all ranks."""

    def __init__(
        self, name: str, source: str, vocab_size: int, hidden_size: int, layout: Layout, scheme: Scheme
    ) -> None:
        pieces, _ = _vocabulary_share(source, vocab_size, layout)
        self.vocab_size = vocab_size
        self.weight = Parameter(name, pieces, scheme, in_features=hidden_size)

    @classmethod
    def tied(cls, embedding: Embedding, vocab_size: int) -> Head:
        """A head that is the embedding table itself: nothing is stored twice."""
        head = cls.__new__(cls)
        head.vocab_size = vocab_size
        head.weight = embedding.table
        return head

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight

    def __call__(self, x: Tensor, env: Env) -> Tensor:
        """x [R, hidden_size] → logits [R, vocab_size] fp32, the same on every rank; padding is cut off."""
        return env.comm.all_gather(self.weight.matmul(env.ops, x).float())[:, : self.vocab_size]
