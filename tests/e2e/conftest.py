"""Engines for the end-to-end tests, each built once by the real command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(checkpoint, *flags) → engine, by `llmserve build`; the same arguments give the same engine."""
    engines: dict[tuple[str, ...], Path] = {}

    def make(checkpoint: str | Path, *flags: str) -> Path:
        key = (str(checkpoint), *flags)
        if key not in engines:
            target = tmp_path_factory.mktemp("engine") / "engine"
            command = [sys.executable, "-m", "llmserve", "build", str(checkpoint), "-o", str(target), *flags]
            subprocess.run(command, check=True, capture_output=True)
            engines[key] = target
        return engines[key]

    return make


@pytest.fixture(scope="session")
def demo_engine(build: Build) -> Path:
    """The embedded demo, int8 over two ranks."""
    return build("demo", "--quant", "int8", "--tp-size", "2", "--dtype", "float32")
