"""The build: a Hugging Face checkpoint in, an engine directory out, one rank's shard after another.

Shard first, then quantise, once. Weights stream through in bands of rows, so memory is bounded by a band and not by
the checkpoint; the shard files get their full size before any of them is computed, so a full disk shows early.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmserve import __version__
from llmserve.checkpoint.disk import readable_bytes
from llmserve.checkpoint.engine_dir import EngineDirWriter, shard_name
from llmserve.checkpoint.source import Checkpoint
from llmserve.checkpoint.tensor_file import TensorFileWriter, TensorSpec
from llmserve.config import MAX_TP_SIZE, BuildConfig, Manifest, ModelConfig
from llmserve.errors import BuildError, CheckpointError, EngineDirError
from llmserve.layers.layout import make_layout
from llmserve.models import make_model, read_config
from llmserve.models.decoder import Decoder
from llmserve.models.generation import read_generation
from llmserve.quant import GROUP_SIZES

Progress = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all."""

NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Endings of tensors that old checkpoints hold and that are computed, not learned."""

OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt")
"""Files from which transformers makes a tokenizer.json."""

TIED_HEAD = "lm_head.weight"
"""What a tied head is called where a checkpoint holds it although it is the embedding table."""


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
    dtype = config.dtype if config.dtype != "auto" else _checkpoint_dtype(checkpoint)
    group_size = _group_size(model, config, dtype)
    ranks = [_rank_model(model, config, group_size, dtype, rank) for rank in range(config.tp_size)]
    used = _check_tensors(checkpoint, ranks)
    generation = read_generation(checkpoint.config, checkpoint.generation_config, model.vocab_size)
    _check_tokenizer(checkpoint)
    manifest = Manifest(
        llmserve_version=__version__,
        device=config.device,
        model_name=checkpoint.name,
        model=model,
        quant=config.quant,
        head_quant=config.head,
        group_size=group_size,
        tp_size=config.tp_size,
        dtype=dtype,
        generation=generation.defaults,
        tokenizer_sha256=_tokenizer_sha256(checkpoint),
        source_fingerprint=checkpoint.fingerprint(),
        files={},
    )
    with EngineDirWriter(target, force) as writer:
        _write_shards(checkpoint, ranks, writer.path, report)
        for file in checkpoint.tokenizer_files():
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


def _rank_model(model: ModelConfig, config: BuildConfig, group_size: int | None, dtype: str, rank: int) -> Decoder:
    return make_model(model, make_layout(config.quant, config.head, group_size, dtype, rank, config.tp_size))


def _checkpoint_dtype(checkpoint: Checkpoint) -> Any:
    """transformers writes `torch_dtype`, from version 5 on `dtype`."""
    name = checkpoint.config.get("torch_dtype") or checkpoint.config.get("dtype")
    if name not in ("float32", "bfloat16", "float16"):
        raise CheckpointError(
            f"config.json gives the dtype as {name!r}; choose one with --dtype float32, bfloat16 or float16."
        )
    return name


def _group_size(model: ModelConfig, config: BuildConfig, dtype: str) -> int | None:
    """The int4 group size: the one asked for, else the largest that every sharded matrix can be cut into.

    BuildError says what cannot be cut as `config` wants it, and what to choose instead.
    """
    if "int4" not in (config.quant, config.head) and config.group_size is not None:
        raise BuildError(f"--group-size {config.group_size} is for --quant int4 only, not for {config.quant}.")
    try:
        return _fitting_group_size(model, config, dtype)
    except BuildError as e:
        raise BuildError(f"{str(e).removesuffix('.')}; {_what_fits(model, config, dtype)}.") from None


def _fitting_group_size(model: ModelConfig, config: BuildConfig, dtype: str) -> int | None:
    """Found by trying, as what can be cut is for the layers to say. BuildError where nothing fits."""
    sizes: tuple[int | None, ...] = GROUP_SIZES if "int4" in (config.quant, config.head) else (None,)
    reason = ""
    for size in sizes if config.group_size is None else (config.group_size,):
        try:
            for parameter in _rank_model(model, config, size, dtype, rank=0).parameters():
                parameter.layout()
            return size
        except BuildError as e:
            reason = str(e)
    raise BuildError(reason)


def _what_fits(model: ModelConfig, config: BuildConfig, dtype: str) -> str:
    """The least change to `config` that can be built."""

    def fits(**change: Any) -> bool:
        try:
            _fitting_group_size(model, config.model_copy(update=change), dtype)
        except BuildError:
            return False
        return True

    if config.group_size is not None and fits(group_size=None):
        return "leave --group-size away to use the largest that fits"
    if sizes := [n for n in range(1, min(model.num_heads, MAX_TP_SIZE) + 1) if fits(tp_size=n)]:
        return f"choose a tp_size among {', '.join(map(str, sizes))}"
    return "use --quant int8" if fits(quant="int8", group_size=None) else "use --quant int8 and tp_size=1"


def _check_tensors(checkpoint: Checkpoint, ranks: list[Decoder]) -> set[str]:
    """The names of all tensors that the engine is made of. BuildError for one that the model would leave out."""
    used = {piece.source for model in ranks for p in model.parameters() for piece in p.pieces if piece.source}
    for name in sorted(used):
        dtype = checkpoint.spec(name).dtype  # CheckpointError names a missing one, before anything is written
        if not dtype.is_floating_point:
            raise BuildError(
                f"{name} is {str(dtype).removeprefix('torch.')}: a quantised checkpoint, which llmserve does not read "
                "yet; use the model's BF16 or F16 checkpoint."
            )
    config = ranks[0].config
    left = [n for n in checkpoint.names() if n not in used and not n.endswith(NOT_WEIGHTS)]
    if config.tie_embeddings and TIED_HEAD in left:
        _check_tied_head(checkpoint, ranks[0].embedding.table.pieces[0].source)
        left.remove(TIED_HEAD)
    if left:
        raise BuildError(
            f"the checkpoint holds tensors that the family {config.family!r} does not use ({left[0]}, {len(left)} in "
            "all); an engine without them would answer wrongly."
        )
    return used


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


def _write_shards(checkpoint: Checkpoint, ranks: list[Decoder], folder: Path, report: Progress) -> None:
    with ExitStack() as open_files:
        writers = []
        for rank, model in enumerate(ranks):
            specs = {n: TensorSpec(*spec) for p in model.parameters() for n, spec in p.layout().items()}
            metadata = {"format": "pt", "rank": str(rank)}
            writers.append(open_files.enter_context(TensorFileWriter(folder / shard_name(rank), specs, metadata)))
        total = sum(spec.nbytes for w in writers for spec in w.specs.values())
        done = 0
        for model, writer in zip(ranks, writers, strict=True):
            for parameter in model.parameters():
                for name, row, band in parameter.pack(checkpoint):
                    writer.write(name, row, band)
                    done += band.nbytes
                    report("weights", done, total)


def _tokenizer_sha256(checkpoint: Checkpoint) -> str | None:
    file = checkpoint.path / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    """Whether a server could use it. A checkpoint may have none: its engine takes and gives token ids only."""
    from llmserve.tokenizer import Tokenizer

    names = [file.name for file in checkpoint.tokenizer_files()]
    if "tokenizer.json" in names:
        try:
            Tokenizer.load(checkpoint.path)
        except EngineDirError as e:
            advice = "copy or download it again, or remove the tokenizer's files to serve token ids only."
            raise CheckpointError(str(e).replace("build the engine again.", advice)) from None
    elif other := [n for n in names if n in OTHER_TOKENIZERS or n.endswith(".tiktoken")]:
        path = str(checkpoint.path)
        raise BuildError(
            f"{path} has {other[0]} but no tokenizer.json, which is what llmserve reads; make it with "
            f'`python -c "from transformers import AutoTokenizer as T; p={path!r}; '
            'T.from_pretrained(p).save_pretrained(p)"`.'
        )


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
    if report.not_applied:
        rows.append(("not applied", f"{', '.join(report.not_applied)} of generation_config.json: not supported yet"))
    return rows
