"""Engines for the end-to-end tests, each built once by the command's own code, in this process to load torch once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmserve.cli import app

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(checkpoint, *flags) → engine, by `llmserve build`; the same arguments give the same engine."""
    engines: dict[tuple[str, ...], Path] = {}

    def make(checkpoint: str | Path, *flags: str) -> Path:
        key = (str(checkpoint), *flags)
        if key not in engines:
            target = tmp_path_factory.mktemp("engine") / "engine"
            words = ["build", str(checkpoint), "-o", str(target), *flags]
            CliRunner().invoke(app, words, catch_exceptions=False)
            engines[key] = target
        return engines[key]

    return make


@pytest.fixture(scope="session")
def demo_engine(build: Build) -> Path:
    """The embedded demo, int8 over two ranks."""
    return build("demo", "--quant", "int8", "--tp-size", "2", "--dtype", "float32")
