"""The reference answers of checkpoints with real weight names: on one rank, and on two under a real mpirun."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmserve.comm.solo import SoloComm
from tests.forward import deviation
from tests.kernels import KERNELS
from tests.models.golden import FAMILIES, Golden, greedy, logits
from tests.mpi import mpirun
from tests.shared import shared
from tests.thread_ranks import run_ranks
from tests.tiny import build

TOLERANCE = 1e-4
"""Of the logits' range; fp32 on both sides, so only the order of sums differs."""

on_all = pytest.mark.parametrize("kernels", [*KERNELS, "reference"])


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def golden(family: str) -> Golden:
    return read_golden(family)


@cache
def read_golden(family: str) -> Golden:
    return Golden.read(shared(f"golden/{family}"))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def engine(family: str, engines: Path) -> Path:
    if not (engines / family).exists():
        build(shared(f"golden/{family}"), engines / family)
    return engines / family


@pytest.fixture(scope="module", params=[*KERNELS[:1], "reference"])
def two_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what rank 0 of two wrote, for all families: one mpirun, as starting it takes longer than they."""
    goldens = shared("golden")
    engines, out = tmp_path_factory.mktemp("engines"), tmp_path_factory.mktemp("out")
    for family in FAMILIES:
        build(goldens / family, engines / family, tp_size=2)
    mpirun(2, "tests.models.golden_rank", request.param, engines, goldens, out)
    return out


@on_all
def test_greedy_answers(engine: Path, golden: Golden, kernels: str) -> None:
    assert greedy(engine, golden, SoloComm(), kernels) == golden.greedy


@on_all
def test_logits_of_prompts_and_of_every_cached_step(engine: Path, golden: Golden, kernels: str) -> None:
    for ours, theirs in zip(logits(engine, golden, SoloComm(), kernels), golden.logits, strict=True):
        assert deviation(ours, theirs) < TOLERANCE


def test_four_ranks(family: str, golden: Golden, engines: Path) -> None:
    """Threads as ranks. There are fewer KV heads than ranks, so some hold the same."""
    engine = build(shared(f"golden/{family}"), engines / f"{family}-tp4", tp_size=4)
    rows = run_ranks(4, lambda comm: logits(engine, golden, comm))[0]
    for ours, theirs, answer in zip(rows, golden.logits, golden.greedy, strict=True):
        assert deviation(ours, theirs) < TOLERANCE
        assert ours[-len(answer) - 1 : -1].argmax(dim=1).tolist() == answer


def test_greedy_answers_of_two_ranks(two_ranks: Path, family: str, golden: Golden) -> None:
    assert json.loads((two_ranks / f"{family}.json").read_text()) == golden.greedy


def test_logits_of_two_ranks(two_ranks: Path, family: str, golden: Golden) -> None:
    rows = load_file(two_ranks / f"{family}.safetensors")
    for i, theirs in enumerate(golden.logits):
        assert deviation(rows[str(i)], theirs) < TOLERANCE
