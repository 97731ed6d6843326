"""What our own engine is measured on: a random checkpoint of each shape, and an engine of each format."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from cpu_bench.shapes import FORMATS, SHAPES
from cpu_bench.workplace import PrepareError, Workplace
from llmserve.config import ENGINE_FORMAT


def checkpoint(place: Workplace, shape: str) -> Path:
    from random_checkpoint import write_checkpoint

    target = place.model(shape, "checkpoint")
    return place.make(target, f"{shape}: a random checkpoint", lambda path: write_checkpoint(SHAPES[shape], path))


def engine(place: Workplace, shape: str, format_name: str, tp_size: int, extra: list[str], rebuild: bool) -> Path:
    """Built once; again where the flags or the engines' format have changed, or `rebuild` says so."""
    flags = FORMATS[format_name].build
    if flags is None:
        raise PrepareError(f"llmserve has no format {format_name}")
    source = checkpoint(place, shape)
    target = place.model(shape, f"llmserve-{format_name}-tp{tp_size}")
    stamp = target.with_suffix(".flags")
    flags = (*flags, "--tp-size", str(tp_size), *extra)
    wanted = json.dumps({"flags": flags, "format": ENGINE_FORMAT})
    if rebuild or not (target / "engine.json").exists() or not stamp.exists() or stamp.read_text() != wanted:
        place.say(f"preparing {shape}: llmserve {format_name}, {tp_size} rank(s)")
        shutil.rmtree(target, ignore_errors=True)  # `--force` would not replace an engine of another format
        place.run([sys.executable, "-m", "llmserve", "build", source, "-o", target, *flags], place.environment())
        stamp.write_text(wanted)
    return target
