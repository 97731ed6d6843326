"""What `llmserve build CHECKPOINT` may name: a folder, or a model of the hub; with an adapter or without."""

from __future__ import annotations

from pathlib import Path

from llmserve.checkpoint.hub import fetch, is_hub_id
from llmserve.checkpoint.lora import merge
from llmserve.checkpoint.source import TOKENIZER_FILES, Checkpoint
from llmserve.errors import CheckpointError


def open_checkpoint(given: str, revision: str | None = None, lora: Path | None = None) -> Checkpoint:
    """`revision`: of a model of the hub; `lora`: the folder of an adapter. Raises CheckpointError, one sentence."""
    if is_hub_id(given):
        checkpoint = Checkpoint.open(fetch(given, revision, TOKENIZER_FILES))
    elif revision is not None:
        raise CheckpointError(f"--revision is for models of the hub, and {given} is not one; leave it away.")
    else:
        checkpoint = Checkpoint.open(given)
    return checkpoint if lora is None else merge(checkpoint, lora)
