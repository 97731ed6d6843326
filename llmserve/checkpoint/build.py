"""The build: a Hugging Face checkpoint in, an engine directory out, one rank's shard after another.

Each rank's share is quantised once, to what one rank alone would hold of it. Weights stream through in bands of rows,
so memory is bounded by a band and not by the checkpoint; the shard files get their full size before any of them is
computed, so a full disk shows early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llmserve import __version__
from llmserve.checkpoint.disk import readable_bytes
from llmserve.checkpoint.engine_dir import EngineDirWriter, shard_name
from llmserve.checkpoint.ranks import (
    TIED_HEAD,
    checkpoint_dtype,
    divide,
    given_int4,
    shard_metadata,
    shard_specs,
)
from llmserve.checkpoint.source import Checkpoint
from llmserve.checkpoint.tensor_file import TensorFileWriter
from llmserve.checkpoint.text_files import describe_left_out, load_tokenizer, text_files, tokenizer_sha256
from llmserve.config import BuildConfig, Manifest, ModelConfig
from llmserve.errors import BuildError, CheckpointError
from llmserve.layers.parameter import Matrix, Parameter
from llmserve.models import read_config
from llmserve.models.decoder import Decoder
from llmserve.models.generation import read_generation

Progress = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all."""

NOT_WEIGHTS = (".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Endings of tensors that old checkpoints hold and that are computed, not learned."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    manifest: Manifest
    source_bytes: int  # of the checkpoint's tensors
    engine_bytes: int  # of all shards
    num_weights: int  # of the checkpoint, tied ones once
    not_applied: tuple[str, ...]  # of generation_config.json

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.engine_bytes / self.num_weights


def build_engine(
    checkpoint: Checkpoint, target: Path, config: BuildConfig, *, force: bool = False, progress: Progress | None = None
) -> BuildReport:
    """Raises CheckpointError or BuildError in one sentence, and then leaves nothing behind."""
    report = progress or (lambda phase, done, total: None)
    model = read_config(checkpoint.config)
    _check_counts(checkpoint, model)
    dtype = config.dtype if config.dtype != "auto" else checkpoint_dtype(checkpoint)
    ranks = divide(model, config, dtype, given_int4(checkpoint))
    config = ranks.config
    checkpoint = with_prefix(checkpoint, ranks.models[0])
    used = _check_tensors(checkpoint, ranks.models)
    tokenizer = load_tokenizer(checkpoint)
    eos = None if tokenizer is None else tokenizer.eos_token_id
    generation = read_generation(checkpoint.config, checkpoint.generation_config, model.vocab_size, eos)
    manifest = Manifest(
        llmserve_version=__version__,
        device=config.device,
        model_name=checkpoint.name,
        model=model,
        quant=config.quant,
        head_quant=config.head,
        group_size=ranks.group_size,
        zero_points=ranks.zero_points,
        tp_size=config.tp_size,
        dtype=dtype,
        generation=generation.defaults,
        tokenizer_sha256=tokenizer_sha256(checkpoint),
        source_fingerprint=checkpoint.fingerprint(),
        files={},
    )
    with EngineDirWriter(target, force) as writer:
        _write_shards(checkpoint, ranks.models, writer.path, report)
        for file in text_files(checkpoint):
            writer.add_file(file)
        total = sum(file.stat().st_size for file in writer.path.iterdir())
        manifest = writer.finish(manifest, lambda done: report("checksums", done, total))
    return BuildReport(
        manifest,
        source_bytes=checkpoint.total_bytes,
        engine_bytes=sum(manifest.files[shard_name(rank)].size for rank in range(config.tp_size)),
        num_weights=sum(math.prod(checkpoint.shape(name)) for name in used),
        not_applied=generation.not_applied,
    )


def _check_counts(checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Every layer and every expert is some tensor: what the file cannot hold is not to cost memory here."""
    held = len(checkpoint.names())
    experts = model.experts.count * sum(model.experts.layers) if model.experts else 0
    if max(model.num_layers, experts) > held:
        of = f" and {experts} experts" if experts else ""
        raise CheckpointError(
            f"config.json implies {model.num_layers} layers{of}, but the checkpoint holds {held} tensors; the "
            "checkpoint and its config do not belong together."
        )


def with_prefix(checkpoint: Checkpoint, model: Decoder) -> Checkpoint:
    """Saved without its LM head, a model's names lack their first part (GPT-2's own checkpoint is such a one)."""
    table = model.embedding.table.pieces[0].source
    assert table is not None
    prefix, _, rest = table.partition(".")
    return checkpoint.under(f"{prefix}.") if table not in checkpoint and rest in checkpoint else checkpoint


def _check_tensors(checkpoint: Checkpoint, ranks: Sequence[Decoder]) -> set[str]:
    """The names of all tensors that the engine is made of. BuildError for one that the model would leave out."""
    used = set()
    for model in ranks:
        for parameter in model.parameters():
            parameter.check(checkpoint)  # CheckpointError names a missing one, before anything is written
            _check_kept(checkpoint, parameter)
            used |= {piece.source for piece in parameter.pieces if piece.source}
    for name in sorted(used):
        dtype = checkpoint.spec(name).dtype
        if not dtype.is_floating_point:
            raise BuildError(
                f"{name} is {str(dtype).removeprefix('torch.')}: a quantised checkpoint, which llmserve does not read "
                "yet; use the model's BF16 or F16 checkpoint."
            )
    config = ranks[0].config
    left = [n for n in checkpoint.names() if n not in used and not n.endswith(NOT_WEIGHTS)]
    left = [n for n in left if not _adds_nothing(checkpoint, n)]
    if config.tie_embeddings and TIED_HEAD in left:
        _check_tied_head(checkpoint, ranks[0].embedding.table.pieces[0].source)
        left.remove(TIED_HEAD)
    if left:
        raise BuildError(
            f"the checkpoint holds tensors that the family {config.family!r} does not use ({left[0]}, {len(left)} in "
            "all); an engine without them would answer wrongly."
        )
    return used


def _check_kept(checkpoint: Checkpoint, parameter: Parameter) -> None:
    """In an engine of a checkpoint's own int4, what is int4 there has to be so here, and the other way round."""
    takes = isinstance(parameter, Matrix) and parameter.scheme.given is not None
    for piece in parameter.pieces:
        if piece.source is None:
            continue
        if checkpoint.is_int4(piece.source) != takes:
            what = "is not quantised in the checkpoint, though other matrices are" if takes else "is int4"
            raise BuildError(
                f"{piece.source} {what}, which llmserve cannot mix into {parameter.name}; use the model's BF16 or F16 "
                "checkpoint."
            )
        if takes and (piece.transposed or piece.change):
            raise BuildError(
                f"{piece.source} is int4 and would have to be computed anew for this family; use the model's BF16 or "
                "F16 checkpoint."
            )


def _adds_nothing(checkpoint: Checkpoint, name: str) -> bool:
    """AutoGPTQ wrote a bias of zeros beside matrices that have none."""
    weight = f"{name.removesuffix('.bias')}.weight"
    if not name.endswith(".bias") or weight not in checkpoint or not checkpoint.is_int4(weight):
        return False
    shape = checkpoint.shape(name)
    return len(shape) == 1 and not checkpoint.rows(name, 0, shape[0]).any()


def _check_tied_head(checkpoint: Checkpoint, table: str | None) -> None:
    """Some tools write a tied head as well. It has to be the table, or config.json is wrong and so would we be."""
    assert table is not None
    rows = checkpoint.shape(table)[0]
    bands = [(start, min(start + 1024, rows)) for start in range(0, rows, 1024)]
    if checkpoint.shape(TIED_HEAD) != checkpoint.shape(table) or not all(
        checkpoint.rows(TIED_HEAD, *band).float().equal(checkpoint.rows(table, *band).float()) for band in bands
    ):
        raise BuildError(
            f"config.json says tie_word_embeddings=True, but {TIED_HEAD} is not equal to {table}; correct the one or "
            "remove the other."
        )


def _write_shards(checkpoint: Checkpoint, ranks: Sequence[Decoder], folder: Path, report: Progress) -> None:
    with ExitStack() as open_files:
        writers = []
        for rank, model in enumerate(ranks):
            file = folder / shard_name(rank)
            writers.append(open_files.enter_context(TensorFileWriter(file, shard_specs(model), shard_metadata(rank))))
        total = sum(spec.nbytes for w in writers for spec in w.specs.values())
        done = 0
        for model, writer in zip(ranks, writers, strict=True):
            for parameter in model.parameters():
                for name, row, band in parameter.pack(checkpoint):
                    writer.write(name, row, band)
                    done += band.nbytes
                    report("weights", done, total)


def describe(report: BuildReport) -> list[tuple[str, str]]:
    """The closing table's rows."""
    m = report.manifest
    ratio = report.engine_bytes / report.source_bytes
    rows = [
        ("model", f"{m.model_name} ({m.model.family})"),
        ("weights", f"{report.num_weights / 1e6:,.1f} M"),
        *m.stored_as(),
        ("ranks", f"{m.tp_size} × {m.device}"),
        ("before", readable_bytes(report.source_bytes)),
        ("after", f"{readable_bytes(report.engine_bytes)} ({ratio:.0%}), {report.bits_per_weight:.2f} bits per weight"),
    ]
    return rows + describe_left_out(m, report.not_applied)
