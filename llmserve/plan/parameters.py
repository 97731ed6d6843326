"""What a plan has to know of a model's parameters beyond what they store."""

from __future__ import annotations

from collections.abc import Iterator

from llmserve.layers.experts import ExpertsMLP
from llmserve.layers.parameter import Matrix, Parameter
from llmserve.models.decoder import Decoder


def num_weights(model: Decoder) -> int:
    """Of the checkpoint, all ranks' together; tied ones once."""
    tensors = {
        piece.source: piece.of * (parameter.in_features or 1)
        for parameter in model.parameters()
        for piece in parameter.pieces
        if piece.source is not None
    }
    return sum(tensors.values())


def expert_matrices(model: Decoder) -> Iterator[Matrix]:
    """Each holds a matrix of every expert of its layer."""
    for layer in model.layers:
        if isinstance(layer.mlp, ExpertsMLP):
            yield layer.mlp.gate_up
            yield layer.mlp.down


def read_by_row(model: Decoder) -> Iterator[Parameter]:
    """Of these a token reads a row, unless the table is the head's matrix as well."""
    for parameter in model.embedding.parameters():
        if parameter is not model.head.weight:
            yield parameter


def widths(model: Decoder) -> int:
    """Numbers that a token has in the widest layer: residual, norms, sums, and the outputs of all its matrices."""
    experts = model.config.experts
    names = {parameter.name for parameter in expert_matrices(model)}
    widest = 0
    for layer in model.layers:
        rows = 0
        for parameter in layer.parameters():
            if parameter.in_features is not None:
                share = experts.per_token / experts.count if experts and parameter.name in names else 1
                rows += int(parameter.num_rows * share)
        widest = max(widest, rows)
    return 4 * model.config.hidden_size + widest
