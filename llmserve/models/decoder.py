"""The pre-norm decoder that most families are: embedding, layers of attention and MLP, final norm, head.

A family says where its checkpoint keeps each part (`DecoderSources`) and what its config means (`ModelConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmserve.config import ModelConfig
from llmserve.layers.attention import Attention, AttentionSources
from llmserve.layers.embedding import Embedding, Head, vocabulary_rows
from llmserve.layers.layout import Layout
from llmserve.layers.mlp import GatedMLP, MLPSources
from llmserve.layers.norm import RMSNorm
from llmserve.layers.parameter import Matrix, Parameter, Plain
from llmserve.layers.rope import inverse_frequencies
from llmserve.ops import Array, Cache, Ops


@dataclass(frozen=True, slots=True)
class LayerSources:
    attention_norm: str
    attention: AttentionSources
    mlp_norm: str
    mlp: MLPSources


@dataclass(frozen=True, slots=True)
class DecoderSources:
    """Names of tensors in the checkpoint."""

    embedding: str
    layers: tuple[LayerSources, ...]
    norm: str
    head: str


class DecoderLayer:
    def __init__(self, index: int, config: ModelConfig, sources: LayerSources, layout: Layout) -> None:
        name = f"layers.{index}"
        window = config.sliding_windows[index]
        self.attention_norm = RMSNorm(
            f"{name}.attention_norm", sources.attention_norm, config.hidden_size, config.norm_eps, layout
        )
        self.attention = Attention(f"{name}.attention", config, window, sources.attention, layout)
        self.mlp_norm = RMSNorm(f"{name}.mlp_norm", sources.mlp_norm, config.hidden_size, config.norm_eps, layout)
        self.mlp = GatedMLP(f"{name}.mlp", config, sources.mlp, layout)

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            yield from part.parameters()


class Decoder:
    """One rank's share of the model. No weights until `load`."""

    def __init__(self, config: ModelConfig, sources: DecoderSources, layout: Layout) -> None:
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        rows = vocabulary_rows(sources.embedding, vocab, layout)
        # A tied head shares the table as long as both are stored alike; a quantised head is stored beside it.
        self._head_is_table = config.tie_embeddings and layout.head_scheme.name == "none"
        table: Matrix | Plain = (
            Matrix("embedding", rows, layout.head_scheme, hidden)
            if self._head_is_table
            else Plain("embedding", rows, layout.dtype, hidden)
        )
        self.embedding = Embedding(table, layout)
        self.layers = [DecoderLayer(i, config, s, layout) for i, s in enumerate(sources.layers)]
        self.norm = RMSNorm("norm", sources.norm, hidden, config.norm_eps, layout)
        self._inverse_frequencies = inverse_frequencies(config.rope, config.head_dim)
        if isinstance(table, Plain):
            source = sources.embedding if config.tie_embeddings else sources.head
            table = Matrix("head", vocabulary_rows(source, vocab, layout), layout.head_scheme, hidden)
        self.head = Head(table)

    def parameters(self) -> Iterator[Parameter]:
        """Every stored parameter once, in the order of the computation."""
        yield from self.embedding.parameters()
        for layer in self.layers:
            yield from layer.parameters()
        yield from self.norm.parameters()
        if not self._head_is_table:
            yield from self.head.parameters()

    def forward(self, caches: Sequence[Cache], ops: Ops) -> Array:
        """One step, with each layer's cache → this rank's columns of the logits, [R, share of the vocabulary].

        Only the R rows whose logits are wanted go through the final norm and the head.
        """
        angles = ops.angles(self._inverse_frequencies)
        x, residual = self.embedding(ops), None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = _normed(layer.attention_norm, x, residual, ops)
            x = layer.attention(x, angles, cache, ops)
            x, residual = _normed(layer.mlp_norm, x, residual, ops)
            x = layer.mlp(x, ops)
        return self.head(ops.last_norm(x, residual, self.norm.weight, self.norm.eps), ops)


def _normed(norm: RMSNorm, x: Array, residual: Array | None, ops: Ops) -> tuple[Array, Array]:
    if residual is None:
        return ops.rms_norm(x, norm.weight, norm.eps)
    return ops.add_rms_norm(x, residual, norm.weight, norm.eps)
