"""What a build decides before it reads a weight: dtype, group size, and each rank's share of the model.

The build asks this of a checkpoint, `llmserve plan` of a config.json alone. No tensor is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmserve.checkpoint.source import Checkpoint, Int4Form
from llmserve.checkpoint.tensor_header import TensorSpec
from llmserve.config import MAX_TP_SIZE, BuildConfig, DType, Manifest, ModelConfig
from llmserve.errors import BuildError, CheckpointError
from llmserve.layers.layout import make_layout
from llmserve.models import make_model
from llmserve.models.decoder import Decoder
from llmserve.quant import GROUP_SIZES
from llmserve.quant.given_int4 import GivenInt4

TIED_HEAD = "lm_head.weight"
"""What a tied head is called where a checkpoint holds it although it is the embedding table."""


@dataclass(frozen=True, slots=True)
class Given:
    """A checkpoint's own int4 matrices, which its engine keeps as they are."""

    form: Int4Form
    head: bool  # the LM head is one of them


@dataclass(frozen=True, slots=True)
class Ranks:
    """A model divided over ranks."""

    config: BuildConfig  # with what a checkpoint of int4 decides
    dtype: DType
    group_size: int | None
    zero_points: bool
    models: tuple[Decoder, ...]  # each rank's share, without weights


def divide(model: ModelConfig, config: BuildConfig, dtype: DType, given: Given | None) -> Ranks:
    """`dtype`: of activations and unquantised weights.

    BuildError says what cannot be cut, and what to choose instead.
    """
    config = _for_given(config, given)
    group_size, ends = _fitting(model, config, dtype, given)
    models = tuple(
        ends.get(rank) or _rank_model(model, config, group_size, dtype, rank, given) for rank in range(config.tp_size)
    )
    return Ranks(config, dtype, group_size, given is not None and given.form.zero_points, models)


def divided(manifest: Manifest) -> Ranks:
    """As a native engine was divided when it was built."""
    m = manifest
    config = BuildConfig.model_validate(m.model_dump(include=set(BuildConfig.model_fields)))
    layouts = [
        make_layout(m.quant, m.head_quant, m.group_size, m.dtype, rank, m.tp_size, m.zero_points)
        for rank in range(m.tp_size)
    ]
    models = tuple(make_model(m.model, layout) for layout in layouts)
    return Ranks(config, m.dtype, m.group_size, m.zero_points, models)


def shard_specs(model: Decoder) -> dict[str, TensorSpec]:
    """What a rank's shard file holds: name → shape and dtype, as they are stored."""
    return {name: TensorSpec(*spec) for p in model.parameters() for name, spec in p.layout().items()}


def shard_metadata(rank: int) -> dict[str, str]:
    return {"format": "pt", "rank": str(rank)}


def config_dtype(config: dict[str, Any]) -> DType | None:
    """What config.json says of its tensors' dtype. transformers writes `torch_dtype`, from version 5 on `dtype`."""
    name = config.get("torch_dtype") or config.get("dtype")
    if name is not None and name not in ("float32", "bfloat16", "float16"):
        raise CheckpointError(
            f"config.json gives the dtype as {name!r:.200}; choose one with --dtype float32, bfloat16 or float16."
        )
    return name


def given_int4(checkpoint: Checkpoint) -> Given | None:
    form = checkpoint.int4
    return None if form is None else Given(form, TIED_HEAD in checkpoint and checkpoint.is_int4(TIED_HEAD))


def checkpoint_dtype(checkpoint: Checkpoint) -> DType:
    """What config.json says, or else what holds every tensor exactly."""
    if (name := config_dtype(checkpoint.config)) is not None:
        return name
    kinds = {str(checkpoint.spec(tensor).dtype).removeprefix("torch.") for tensor in checkpoint.names()}
    floats = kinds & {"float16", "bfloat16", "float32", "float64"}
    if floats == {"float16"}:
        return "float16"
    return "bfloat16" if floats == {"bfloat16"} else "float32"


def _for_given(config: BuildConfig, given: Given | None) -> BuildConfig:
    """`config` with what a checkpoint of int4 decides. BuildError where it asks for something else."""
    if given is None:
        return config
    method = given.form.method
    if config.quant != "int4" and "quant" in config.model_fields_set:
        raise BuildError(
            f"the checkpoint's weights are int4 ({method}) and cannot be had as --quant {config.quant} without "
            "rounding them twice; leave --quant away, or use the model's BF16 or F16 checkpoint."
        )
    head = config.head_quant or ("int4" if given.head else "none")
    if given.head and head != "int4":
        raise BuildError(
            f"the checkpoint's LM head is int4 ({method}) and cannot be had as --head-quant {head}; leave it away."
        )
    if config.group_size and given.form.group_size % config.group_size:
        raise BuildError(
            f"--group-size {config.group_size} does not divide the checkpoint's groups of {given.form.group_size}; "
            "leave it away to keep them."
        )
    return config.model_copy(update={"quant": "int4", "head_quant": head})


def _rank_model(
    model: ModelConfig, config: BuildConfig, group_size: int | None, dtype: str, rank: int, given: Given | None
) -> Decoder:
    zero_points = given is not None and given.form.zero_points
    layout = make_layout(config.quant, config.head, group_size, dtype, rank, config.tp_size, zero_points)
    if given is not None:
        assert group_size is not None
        kept = GivenInt4(group_size, zero_points)
        layout = replace(layout, scheme=kept, head_scheme=kept if given.head else layout.head_scheme)
    return make_model(model, layout)


def _fitting(
    model: ModelConfig, config: BuildConfig, dtype: str, given: Given | None
) -> tuple[int | None, dict[int, Decoder]]:
    """The int4 group size, the one asked for, else the largest that every sharded matrix can be cut into; and with it
    the first and the last rank's share.

    BuildError says what cannot be cut as `config` wants it, and what to choose instead.
    """
    if "int4" not in (config.quant, config.head) and config.group_size is not None:
        raise BuildError(f"--group-size {config.group_size} is for --quant int4 only, not for {config.quant}.")
    try:
        return _try(model, config, dtype, given)
    except BuildError as e:
        raise BuildError(f"{str(e).removesuffix('.')}; {_what_fits(model, config, dtype, given)}.") from None


def _try(
    model: ModelConfig, config: BuildConfig, dtype: str, given: Given | None
) -> tuple[int | None, dict[int, Decoder]]:
    """Found by trying, as what can be cut is for the layers to say. BuildError where nothing fits."""
    sizes: tuple[int | None, ...] = GROUP_SIZES if "int4" in (config.quant, config.head) else (None,)
    if given is not None:
        sizes = tuple(size for size in GROUP_SIZES if given.form.group_size % size == 0)
    reason = ""
    for size in sizes if config.group_size is None else (config.group_size,):
        try:
            ends = {}
            for rank in {0, config.tp_size - 1}:  # only the last one's share may be of another size
                ends[rank] = _rank_model(model, config, size, dtype, rank, given)
                for parameter in ends[rank].parameters():
                    parameter.layout()
            return size, ends
        except BuildError as e:
            reason = str(e)
    raise BuildError(reason)


def _what_fits(model: ModelConfig, config: BuildConfig, dtype: str, given: Given | None) -> str:
    """The least change to `config` that can be built."""

    def fits(**change: Any) -> bool:
        try:
            _try(model, config.model_copy(update=change), dtype, given)
        except BuildError:
            return False
        return True

    if config.group_size is not None and fits(group_size=None):
        return "leave --group-size away to use the largest that fits"
    if sizes := [n for n in range(1, min(model.num_heads, MAX_TP_SIZE) + 1) if fits(tp_size=n)]:
        return f"choose a tp_size among {', '.join(map(str, sizes))}"
    if given is not None:
        return "use the model's BF16 or F16 checkpoint"
    return "use --quant int8" if fits(quant="int8", group_size=None) else "use --quant int8 and tp_size=1"
