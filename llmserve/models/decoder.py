"""The pre-norm decoder that most families are: embedding, layers of attention and MLP, final norm, head.

A family says where its checkpoint keeps each part (`DecoderSources`) and what its config means (`ModelConfig`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmserve.config import ModelConfig
from llmserve.layers.attention import Attention, AttentionSources
from llmserve.layers.embedding import Embedding, Head, vocabulary_rows
from llmserve.layers.layout import Layout
from llmserve.layers.mlp import FeedForwardSources
from llmserve.layers.norm import Norm
from llmserve.layers.parameter import Matrix, Parameter, Piece, Plain
from llmserve.layers.rope import rotation
from llmserve.ops import Array, Cache, Normalisation, Ops


@dataclass(frozen=True, slots=True)
class LayerSources:
    """Norms are named without their `.weight`. The post norms are those of what a block gives, None without."""

    attention_norm: str
    attention: AttentionSources
    mlp_norm: str
    mlp: FeedForwardSources
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None


@dataclass(frozen=True, slots=True)
class DecoderSources:
    """Names of tensors in the checkpoint; of the norm, without its `.weight`."""

    embedding: str
    layers: tuple[LayerSources, ...]
    norm: str
    head: str
    positions: str | None = None

    @staticmethod
    def of(config: ModelConfig, layer: Callable[[int], LayerSources], **names: str) -> DecoderSources:
        """`layer`: a layer's sources by its number; `names`: the other fields."""
        return DecoderSources(layers=tuple(layer(i) for i in range(config.num_layers)), **names)


class DecoderLayer:
    def __init__(self, index: int, config: ModelConfig, sources: LayerSources, layout: Layout) -> None:
        name = f"layers.{index}"
        window = config.sliding_windows[index]

        def norm(what: str, source: str) -> Norm:
            return Norm(f"{name}.{what}", source, config.hidden_size, config, layout)

        self.attention_norm = norm("attention_norm", sources.attention_norm)
        self.attention = Attention(f"{name}.attention", config, window, sources.attention, layout)
        post = sources.attention_post_norm
        self.attention_post_norm = norm("attention_post_norm", post) if post else None
        self.mlp_norm = norm("mlp_norm", sources.mlp_norm)
        self.mlp = sources.mlp.make(f"{name}.mlp", config, layout)
        post = sources.mlp_post_norm
        self.mlp_post_norm = norm("mlp_post_norm", post) if post else None

    def parameters(self) -> Iterator[Parameter]:
        parts = (
            self.attention_norm, self.attention, self.attention_post_norm, self.mlp_norm, self.mlp, self.mlp_post_norm
        )  # fmt: skip
        for part in parts:
            if part:
                yield from part.parameters()


class Decoder:
    """One rank's share of the model. No weights until `load`."""

    def __init__(self, config: ModelConfig, sources: DecoderSources, layout: Layout) -> None:
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        rows = vocabulary_rows(sources.embedding, vocab, layout)
        # A tied head shares the table as long as both are stored alike; a quantised head is stored beside it.
        alike = layout.head_scheme.name == "none" and not config.unit_head
        self._head_is_table = config.tie_embeddings and alike
        table: Matrix | Plain = (
            Matrix("embedding", rows, layout.head_scheme, hidden)
            if self._head_is_table
            else Plain("embedding", rows, layout.dtype, hidden)
        )
        self.embedding = Embedding(table, _positions(config, sources, layout), config.embedding_scale, layout)
        self.layers = [DecoderLayer(i, config, s, layout) for i, s in enumerate(sources.layers)]
        self.norm = Norm("norm", sources.norm, hidden, config, layout)
        self._rotation = rotation(config.rope, config.head_dim, config.max_position)
        if isinstance(table, Plain):
            source = sources.embedding if config.tie_embeddings else sources.head
            rows = vocabulary_rows(source, vocab, layout, unit=config.unit_head)
            table = Matrix("head", rows, layout.head_scheme, hidden)
        self.head = Head(table, config.logit_softcap)

    def parameters(self) -> Iterator[Parameter]:
        """Every stored parameter once, in the order of the computation."""
        yield from self.embedding.parameters()
        for layer in self.layers:
            yield from layer.parameters()
        yield from self.norm.parameters()
        if not self._head_is_table:
            yield from self.head.parameters()

    def forward(self, caches: Sequence[Cache], ops: Ops) -> tuple[Array, Array]:
        """One step, with each layer's cache → this rank's columns of the logits, and hidden states.

        [R, share of the vocabulary] of the rows whose logits are wanted, and [S, hidden_size] of those of which that is
        wanted which the head would read. No others go through the last layer's feed-forward part and the final norm,
        and only the former through the head.
        """
        angles = ops.angles(self._rotation)
        x, residual = self.embedding(ops), None
        post: Norm | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = _normed(layer.attention_norm, x, residual, post, ops)
            x, post = layer.attention(x, angles, cache, ops), layer.attention_post_norm
            # Nothing reads the other rows of the last layer any more: their keys and values are written by now.
            add_norm = ops.wanted_norm if layer is self.layers[-1] else ops.add_norm
            x, residual = add_norm(x, residual, layer.mlp_norm.handle, _handle(post))
            x, post = layer.mlp(x, ops), layer.mlp_post_norm
        x, hidden = ops.last_norm(x, residual, self.norm.handle, _handle(post))
        return self.head(x, ops), hidden


def _normed(norm: Norm, x: Array, residual: Array | None, post: Norm | None, ops: Ops) -> tuple[Array, Array]:
    if residual is None:
        return ops.norm(x, norm.handle)
    return ops.add_norm(x, residual, norm.handle, _handle(post))


def _handle(norm: Norm | None) -> Normalisation | None:
    return norm.handle if norm else None


def _positions(config: ModelConfig, sources: DecoderSources, layout: Layout) -> Plain | None:
    if sources.positions is None:
        return None
    rows = config.max_position
    return Plain("positions", [Piece(sources.positions, 0, rows, rows)], layout.dtype, config.hidden_size)
