"""What `llmserve build --check` tells: that all is well where it is, and that something is wrong where it is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmserve.check.agreement import compare, describe
from llmserve.check.command import check
from llmserve.check.engine import engine_logits
from llmserve.check.prompts import MOST, prompts
from llmserve.checkpoint.source import Checkpoint
from llmserve.cli import DEMO
from llmserve.config import Manifest
from tests.forward import deviation
from tests.tiny import Tiny, build, tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", "llama")


def test_an_exact_engine_agrees(tiny: Tiny, tmp_path: Path) -> None:
    agreement = check(Checkpoint.open(tiny.folder), build(tiny.folder, tmp_path / "engine"))
    assert agreement.positions == 16 + 48
    assert agreement.same_first == agreement.positions
    assert 0 <= agreement.mean_kl <= agreement.max_kl < 1e-6
    assert agreement.max_error < 1e-5


@pytest.mark.parametrize("tp_size", (1, 2))
@pytest.mark.parametrize("quant, worst", (("int8", 0.1), ("int4", 2.0)))
def test_a_quantised_engine_is_near(tiny: Tiny, tmp_path: Path, quant: str, worst: float, tp_size: int) -> None:
    engine = build(tiny.folder, tmp_path / "engine", quant=quant, tp_size=tp_size)
    agreement = check(Checkpoint.open(tiny.folder), engine)
    assert 1e-6 < agreement.mean_kl < worst


def test_an_engine_of_another_checkpoint_does_not_agree(tiny: Tiny, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", "llama", seed=1)
    agreement = check(Checkpoint.open(tiny.folder), build(other.folder, tmp_path / "engine"))
    assert agreement.same_first < agreement.positions / 4
    assert agreement.mean_kl > 0.5
    assert agreement.max_error > 0.2


def test_ranks_answer_as_one(tiny: Tiny, tmp_path: Path) -> None:
    asked = [(1, 2, 3), tuple(range(40)), (7,)]
    alone, two = (engine_logits(build(tiny.folder, tmp_path / str(n), tp_size=n), asked) for n in (1, 2))
    for ours, theirs, prompt in zip(two, alone, asked, strict=True):
        assert ours.shape == (len(prompt), 96)
        assert deviation(ours, theirs) < 1e-5


def test_figures() -> None:
    exact = torch.tensor([[0.0, math.log(3)], [2.0, 0.0]])
    ours = torch.tensor([[0.0, 0.0], [2.0, 0.5]])
    agreement = compare([ours], [exact])
    assert (agreement.positions, agreement.same_first) == (2, 1)
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1.5))
    second = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert agreement.max_kl == pytest.approx(max(first, second), rel=1e-5)
    assert agreement.mean_kl == pytest.approx((first + second) / 2, rel=1e-5)
    assert agreement.max_error == pytest.approx(math.log(3) / 2)
    assert dict(describe(agreement))["same likeliest token"] == "50.0% of 2 positions"


def test_texts_are_asked_where_there_is_a_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    demo = Checkpoint.open(DEMO)
    config = Manifest.read(build(DEMO, tmp_path / "engine")).model
    asked = prompts(demo, config)
    assert len(asked) > len(prompts(Checkpoint.open(tiny.folder), config)) == 2
    assert all(0 < len(prompt) <= MOST for prompt in asked)
    assert prompts(demo, config) == asked, "the same every time"
    short = config.model_copy(update={"max_position": 5})
    assert all(len(prompt) <= 5 for prompt in prompts(demo, short))


def test_the_command_prints_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmserve", "build", "demo", "-o", str(tmp_path / "e"), "--quant", "int8"]
    told = subprocess.run([*command, "--check"], check=True, capture_output=True, text=True).stdout
    assert "same likeliest token" in told
    assert "nats" in told
    plain = subprocess.run([*command, "--force"], check=True, capture_output=True, text=True).stdout
    assert "nats" not in plain
