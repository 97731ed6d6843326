"""Asking for a build that cannot be done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig
from llmserve.errors import BuildError, CheckpointError


def refusal(checkpoint: Path, **config: Any) -> str:
    """The one sentence that the build says. It must leave the checkpoint's folder, where it would write, as it was."""
    place = checkpoint.parent
    before = _names_in(place)
    with pytest.raises((BuildError, CheckpointError)) as caught:
        build_engine(Checkpoint.open(checkpoint), place / "engine", BuildConfig(**config))
    assert _names_in(place) == before
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]*[^.\n]\.", message)
    assert ". " not in message, "more than one sentence"
    return message


def _names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
