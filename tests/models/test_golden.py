"""The reference answers of checkpoints with real weight names: on one rank, and on two under a real mpirun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmserve.comm.solo import SoloComm
from llmserve.engine.launch import find_mpirun, rank_environment
from tests.forward import deviation
from tests.models.golden import FAMILIES, Golden, greedy, logits
from tests.shared import shared
from tests.tiny import build

TOLERANCE = 1e-4
"""Of the logits' range; fp32 on both sides, so only the order of sums differs."""

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def golden(family: str) -> Golden:
    return read_golden(family)


@cache
def read_golden(family: str) -> Golden:
    return Golden.read(shared(f"golden/{family}"))


@pytest.fixture
def engine(family: str, tmp_path: Path) -> Path:
    return build(shared(f"golden/{family}"), tmp_path / "engine")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what rank 0 of two wrote, for all families: one mpirun, as starting it takes longer than they."""
    goldens = shared("golden")
    engines, out = tmp_path_factory.mktemp("engines"), tmp_path_factory.mktemp("out")
    for family in FAMILIES:
        build(goldens / family, engines / family, tp_size=2)
    mpirun = [find_mpirun(), "-n", "2", "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    mpirun += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    rank = [sys.executable, "-m", "tests.models.golden_rank", str(engines), str(goldens), str(out)]
    environment = {**rank_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*mpirun, *rank], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


def test_greedy_answers(engine: Path, golden: Golden) -> None:
    assert greedy(engine, golden, SoloComm()) == golden.greedy


def test_logits_of_prompts_and_of_every_cached_step(engine: Path, golden: Golden) -> None:
    for ours, theirs in zip(logits(engine, golden, SoloComm()), golden.logits, strict=True):
        assert deviation(ours, theirs) < TOLERANCE


def test_greedy_answers_of_two_ranks(two_ranks: Path, family: str, golden: Golden) -> None:
    assert json.loads((two_ranks / f"{family}.json").read_text()) == golden.greedy


def test_logits_of_two_ranks(two_ranks: Path, family: str, golden: Golden) -> None:
    rows = load_file(two_ranks / f"{family}.safetensors")
    for i, theirs in enumerate(golden.logits):
        assert deviation(rows[str(i)], theirs) < TOLERANCE
