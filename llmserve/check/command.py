"""The check as the command line runs it, after a build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmserve.check.agreement import Agreement, compare
from llmserve.check.engine import engine_logits
from llmserve.check.prompts import prompts
from llmserve.check.streamed import checkpoint_logits
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import Manifest
from llmserve.runtime.load import device_of

Progress = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes in all."""


def check(checkpoint: Checkpoint, engine: Path, progress: Progress | None = None) -> Agreement:
    """Of an engine that was built from this checkpoint. Raises LlmserveError in one sentence."""
    report = progress or (lambda phase, done, total: None)
    manifest = Manifest.read(engine)
    device_of(manifest, 0)  # says at once where the engine cannot run here
    asked = prompts(checkpoint, manifest.model)
    # Before the engine, which leaves torch a single thread.
    exact = checkpoint_logits(checkpoint, manifest.model, asked, lambda done, total: report("check", done, total))
    return compare(engine_logits(engine, asked), exact)
