"""The pre-norm decoder that most families are: embedding, layers of attention and MLP, final norm, head.

A family says where its checkpoint keeps each part (`DecoderSources`) and what its config means (`ModelConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llmserve.config import ModelConfig
from llmserve.layers.attention import Attention, AttentionSources
from llmserve.layers.embedding import Embedding, Head, vocabulary_matrix
from llmserve.layers.layout import Env, Layout
from llmserve.layers.mlp import GatedMLP, MLPSources
from llmserve.layers.norm import RMSNorm
from llmserve.layers.parameter import Parameter
from llmserve.layers.rope import RotaryEmbedding
from llmserve.ops.batch import Batch


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
        self.embedding = Embedding("embedding", sources.embedding, vocab, hidden, layout)
        self.layers = [DecoderLayer(i, config, s, layout) for i, s in enumerate(sources.layers)]
        self.norm = RMSNorm("norm", sources.norm, hidden, config.norm_eps, layout)
        self.rope = RotaryEmbedding(config.rope, config.head_dim)
        # A tied head shares the table as long as both are stored alike; a quantised head is stored beside it.
        self._head_is_table = config.tie_embeddings and layout.head_scheme.name == "none"
        source = sources.embedding if config.tie_embeddings else sources.head
        weight = (
            self.embedding.table
            if self._head_is_table
            else vocabulary_matrix("head", source, vocab, hidden, layout, layout.head_scheme)
        )
        self.head = Head(weight, vocab)

    def parameters(self) -> Iterator[Parameter]:
        """Every stored parameter once, in the order of the computation."""
        yield from self.embedding.parameters()
        for layer in self.layers:
            yield from layer.parameters()
        yield from self.norm.parameters()
        if not self._head_is_table:
            yield from self.head.parameters()

    def to(self, device: torch.device) -> None:
        """Move what is computed rather than stored."""
        self.rope.to(device)

    def forward(self, batch: Batch, cache: Tensor, env: Env) -> Tensor:
        """One step: cache [layers, 2, blocks, block_size, kv_heads, D] → logits [R, vocab_size] fp32.

        Only the rows whose logits are wanted (`batch.logit_rows`) go through the final norm and the head.
        """
        x = self.embedding(batch.tokens, env)
        angles = self.rope(batch.positions)
        residual = torch.zeros_like(x)
        for layer, kv in zip(self.layers, cache, strict=True):
            x, residual = layer.attention_norm.after_add(x, residual, env)
            x = layer.attention(x, angles, kv, batch, env)
            x, residual = layer.mlp_norm.after_add(x, residual, env)
            x = layer.mlp(x, env)
        rows = batch.logit_rows
        x, _ = self.norm.after_add(x[rows], residual[rows], env)
        return self.head(x, env)
