"""What a native engine needs: its parameters are asked what they store, and the device table what it makes of that."""

from __future__ import annotations

import torch
from torch import Tensor

from llmserve.checkpoint.ranks import Ranks, shard_metadata, shard_specs
from llmserve.checkpoint.tensor_header import encode_header, lay_out
from llmserve.config import EngineConfig, ModelConfig
from llmserve.errors import ConfigError
from llmserve.layers.layout import make_layout
from llmserve.layers.parameter import Parameter
from llmserve.models.decoder import Decoder
from llmserve.ops.reference import Matrix, ReferenceOps
from llmserve.plan.needs import Needs, Share, activations
from llmserve.plan.parameters import expert_matrices, read_by_row, widths
from llmserve.runtime.kv_cache import KVKind, kv_kind, reference_layer_bytes
from llmserve.runtime.load import choose_instruction_set

DENSE = 12
"""Bytes of scratch for each number of a quantised matrix that the reference operations multiply by: the numbers in
fp32, the same without their zero points, and the product with their scales (`ops.reference.Matrix.dense`)."""

SCORE = 4
"""Bytes of a score, of which their attention has one for each head, token of a prefill chunk and position before it."""


def native_needs(ranks: Ranks, config: EngineConfig) -> Needs:
    """ConfigError where `config` asks for what the device cannot do."""
    first = ranks.models[0]
    model, device = first.config, ranks.config.device
    kernels = device == "cpu" and choose_instruction_set("auto", torch.device("cpu")) is not None
    layout = make_layout("none", "none", None, ranks.dtype, 0, len(ranks.models))
    heads = layout.cut_kv_heads(model.num_kv_heads)
    kind = kv_kind(config, layout.dtype)
    tokens = max(config.max_num_batched_tokens, config.max_num_seqs)
    return Needs(
        shares=tuple(_share(each, rank, kernels) for rank, each in enumerate(ranks.models)),
        workspace=max(
            activations(tokens, widths(each), config.max_num_seqs, model.vocab_size) for each in ranks.models
        ),
        scores_token=0 if kernels else SCORE * model.num_heads // len(ranks.models) * tokens,
        kv_dtype=kind,
        kv_layer_token=_layer_bytes(kind, kernels, config, heads[1] - heads[0], model.head_dim) // config.block_size,
        block_size=config.block_size,
        num_layers=model.num_layers,
        windows=model.sliding_windows,
        experts=model.experts.count if model.experts else 0,
        experts_per_token=model.experts.per_token if model.experts else 0,
        estimated=("workspace",),
        notes=_notes(device, kernels, ranks.config.quant),
    )


def _share(model: Decoder, rank: int, kernels: bool) -> Share:
    specs = shard_specs(model)
    header = lay_out(specs, shard_metadata(rank))
    resident = {parameter.name: _resident(parameter, kernels) for parameter in model.parameters()}
    experts = {p.name for p in expert_matrices(model)}
    by_row = {parameter.name for parameter in read_by_row(model)}
    return Share(
        stored=header.data_nbytes,
        file=len(encode_header(header)) + header.data_nbytes,
        resident=sum(resident.values()),
        scratch=0 if kernels else max((_scratch(p, experts, model.config) for p in model.parameters()), default=0),
        read_always=sum(size for name, size in resident.items() if name not in experts | by_row),
        experts=sum(resident[name] for name in experts),
    )


def _resident(parameter: Parameter, kernels: bool) -> int:
    """Bytes in memory once it is loaded. Kernels use what they can where the file is mapped."""
    layout = parameter.layout()
    if kernels:
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values())
    shard = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in layout.items()}
    parameter.load(shard, ReferenceOps(torch.device("meta")))
    return sum(tensor.nbytes for tensor in _tensors(parameter.handle))


def _scratch(parameter: Parameter, experts: set[str], model: ModelConfig) -> int:
    made = parameter.handle
    if not isinstance(made, Matrix) or made.scale is None:
        return 0
    at_once = model.experts.count if model.experts and parameter.name in experts else 1  # experts go one by one
    return DENSE * made.q.numel() // at_once


def _tensors(made: object) -> list[Tensor]:
    parts = (made.q, made.scale, made.zero) if isinstance(made, Matrix) else (made,)
    return [part for part in parts if isinstance(part, Tensor)]


def _layer_bytes(kind: KVKind, kernels: bool, config: EngineConfig, kv_heads: int, head_dim: int) -> int:
    """Of a block, as the loaders in `runtime` ask for it."""
    if kernels:
        from llmserve.runtime.load_cpu import block_layer_bytes

        return block_layer_bytes(kind, config.block_size, kv_heads, head_dim)
    if kind == "int8":
        raise ConfigError(
            "--kv-cache-dtype int8 is for the CPU kernels, and neither a GPU nor the reference operations have it; use "
            "bfloat16."
        )
    return reference_layer_bytes(kind, config.block_size, kv_heads, head_dim)


def _notes(device: str, kernels: bool, quant: str) -> tuple[str, ...]:
    if kernels:
        return ()
    if device == "cpu":
        return ("The CPU kernels are not installed here, so this is a plan for the slow reference operations.",)
    notes = (
        "On GPUs llmserve runs its reference operations, which have not been run on one. Their attention makes all "
        "scores of a prefill chunk, so a smaller --max-num-batched-tokens leaves more for the KV cache.",
    )
    if quant == "none":
        return notes
    return (
        *notes,
        "With them int4 takes a byte a weight, and a quantised matrix is made dense while it is multiplied by.",
    )
