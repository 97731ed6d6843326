"""What a TensorRT-LLM engine needs, as far as that is known before it is built: an estimate.

The numbers of weights are exact, taken from the same model as a native engine's. How they are stored is what
TensorRT-LLM 1.2.1 does with weight-only quantisation: the linear layers in int8 or int4 with a 16-bit scale for each
output, norms, biases, embedding and LM head in 16 bits, the embedding whole on every rank. What TensorRT keeps beside
the weights is not known to anybody but it.
"""

from __future__ import annotations

from fractions import Fraction

from llmserve.checkpoint.ranks import Ranks
from llmserve.config import BuildConfig, DType, EngineConfig, ModelConfig, Quant
from llmserve.errors import ConfigError
from llmserve.layers.layout import make_layout
from llmserve.layers.parameter import Matrix, Parameter
from llmserve.models.decoder import Decoder
from llmserve.plan.machines import Machine
from llmserve.plan.needs import Needs, Share, activations
from llmserve.plan.parameters import expert_matrices, widths

TOKENS_PER_BLOCK = 32
"""Of its paged KV cache."""

BLACKWELL = range(100, 120)
"""Compute capabilities for which its builder refuses int8 and int4."""

_BYTES: dict[Quant, Fraction] = {"none": Fraction(2), "int8": Fraction(1), "int4": Fraction(1, 2)}


def tensorrt_llm_needs(ranks: Ranks, config: BuildConfig, engine: EngineConfig) -> Needs:
    """`ranks`: divided as the checkpoint is, unquantised. ConfigError where it cannot be built like this."""
    first, size = ranks.models[0], config.tp_size
    model = first.config
    _check(model, ranks.dtype, config, engine)
    heads = make_layout("none", "none", None, ranks.dtype, 0, size).cut_kv_heads(model.num_kv_heads)
    wide = engine.kv_cache_dtype != "int8"
    tokens = max(engine.max_num_batched_tokens, engine.max_num_seqs)
    return Needs(
        shares=tuple(_share(each, config.quant, size) for each in ranks.models),
        workspace=activations(tokens, widths(first), 2 * engine.max_num_seqs, model.vocab_size),
        scores_token=0,
        kv_dtype=ranks.dtype if wide else "int8",
        kv_layer_token=2 * (heads[1] - heads[0]) * model.head_dim * (2 if wide else 1),
        block_size=TOKENS_PER_BLOCK,
        num_layers=model.num_layers,
        windows=model.sliding_windows,
        experts=model.experts.count if model.experts else 0,
        experts_per_token=model.experts.per_token if model.experts else 0,
        estimated=("weights", "workspace"),
        notes=_notes(wide),
    )


def _check(model: ModelConfig, dtype: DType, config: BuildConfig, engine: EngineConfig) -> None:
    inner = model.experts.intermediate_size if model.experts else model.intermediate_size
    if inner % config.tp_size:  # ours may be cut unequally
        raise ConfigError(
            f"TensorRT-LLM cannot cut a model's intermediate size ({inner}) over tp_size={config.tp_size}; choose a "
            "tp_size that divides it."
        )
    if config.head_quant is not None or config.group_size is not None:
        flag = "--head-quant" if config.head_quant is not None else "--group-size"
        raise ConfigError(f"{flag} is for native engines; leave it away with --backend tensorrt-llm.")
    if dtype == "float32":
        raise ConfigError("a TensorRT-LLM engine has activations of 16 bits; use --dtype float16 or bfloat16.")
    if engine.kv_cache_dtype == "float32":
        raise ConfigError("TensorRT-LLM has no --kv-cache-dtype float32; use auto, which is the engine's 16 bits.")


def refusal(machine: Machine, quant: Quant) -> str | None:
    """Why its builder would not build for this GPU, or None."""
    if quant != "none" and machine.sm is not None and machine.sm in BLACKWELL:
        return (
            f"TensorRT-LLM 1.2.1 builds no int8 or int4 engines for compute capability {machine.sm // 10}."
            f"{machine.sm % 10} ({machine.name}); use --quant none"
        )
    return None


def _share(model: Decoder, quant: Quant, size: int) -> Share:
    config = model.config
    hidden = config.hidden_size
    table = 2 * config.vocab_size * hidden
    head = 2 * -(-config.vocab_size // size) * hidden
    experts = {parameter.name for parameter in expert_matrices(model)}
    held = {p.name: _stored(p, quant) for layer in model.layers for p in layer.parameters()}
    layers = sum(held.values())
    expert_bytes = sum(held[name] for name in experts)
    norm = 2 * hidden
    total = table + head + layers + norm
    return Share(
        stored=total,
        file=None,
        resident=total,
        scratch=0,
        read_always=head + layers - expert_bytes + norm,
        experts=expert_bytes,
    )


def _stored(parameter: Parameter, quant: Quant) -> int:
    """Without the rows of zeros with which our own matrices are padded."""
    rows = sum(piece.rows for piece in parameter.pieces if piece.source is not None)
    if not isinstance(parameter, Matrix) or parameter.name.endswith(".router"):
        return 2 * rows * (parameter.width or 1)
    assert parameter.width is not None
    scales = 0 if quant == "none" else 2 * rows
    return int(rows * parameter.width * _BYTES[quant]) + scales


def _notes(wide: bool) -> tuple[str, ...]:
    notes = (
        "Of a TensorRT-LLM engine this is an estimate: weights as 1.2.1 stores them (embedding and LM head in 16 "
        "bits), without what TensorRT adds for its kernels. llmserve's tests have built and run none.",
    )
    if wide:
        return notes
    return (*notes, "With an int8 KV cache it turns off paged context attention: no prefix reuse, no chunked prefill.")
