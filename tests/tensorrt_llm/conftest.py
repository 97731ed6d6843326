"""The demo as an engine of TensorRT-LLM, built once by the real command on the stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tensorrt_llm.standin import StandIn

LIMITS = ("--max-batch-size", "4", "--max-num-tokens", "64", "--max-seq-len", "1000")


@dataclass(frozen=True)
class Built:
    path: Path
    stand_in: StandIn  # with what it was called
    told: str  # by the command


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two ranks, int8."""
    folder = tmp_path_factory.mktemp("tensorrt_llm")
    stand_in, target = StandIn(folder / "standin"), folder / "engine"
    command = [sys.executable, "-m", "llmserve", "build", "demo", "-o", str(target), "--backend", "tensorrt-llm"]
    environment = {**os.environ, **stand_in.environment(), "COLUMNS": "200"}
    done = subprocess.run(
        [*command, "--tp-size", "2", "--quant", "int8", *LIMITS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Built(target, stand_in, done.stdout + done.stderr)
