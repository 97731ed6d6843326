"""The files of a checkpoint that text depends on: what an engine takes along, and whether a server could read it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from llmserve.checkpoint.source import Checkpoint
from llmserve.config import Manifest
from llmserve.errors import CheckpointError, EngineDirError
from llmserve.tokenizer import Tokenizer, vocabulary_files


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """What a server would load. A checkpoint may have none: its engine takes and gives token ids only."""
    try:
        return Tokenizer.load(checkpoint.path) if vocabulary_files(checkpoint.path) else None
    except EngineDirError as e:
        advice = "copy or download it again, or remove the tokenizer's files to serve token ids only."
        raise CheckpointError(str(e).replace("build the engine again.", advice)) from None


def tokenizer_sha256(checkpoint: Checkpoint) -> str | None:
    """Over the vocabulary."""
    digest = hashlib.sha256()
    files = vocabulary_files(checkpoint.path)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else None


def text_files(checkpoint: Checkpoint) -> list[Path]:
    """config.json comes along where there is a tokenizer: it says of which model, where its files do not."""
    config = [checkpoint.path / "config.json"] if vocabulary_files(checkpoint.path) else []
    return checkpoint.tokenizer_files() + config


def describe_left_out(manifest: Manifest, not_applied: Sequence[str]) -> list[tuple[str, str]]:
    """Rows for people: what of text and of generation_config.json (`not_applied`) the engine does without."""
    rows = []
    if manifest.tokenizer_sha256 is None:
        rows.append(("text", "none: the checkpoint has no vocabulary, so the engine takes and gives token ids only"))
    if not_applied:
        rows.append(("not applied", f"{', '.join(not_applied)} of generation_config.json: not supported yet"))
    return rows
