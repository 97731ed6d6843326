"""A checkpoint's own logits, computed from bands of its rows: those of transformers, whatever the bands are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmserve.check.streamed import Rows, checkpoint_logits
from llmserve.checkpoint.source import Checkpoint
from llmserve.layers import parameter
from llmserve.layers.layout import make_layout
from llmserve.models import make_model, read_config
from tests.forward import deviation
from tests.models.golden import FAMILIES, Golden
from tests.shared import shared
from tests.tiny import Tiny, tiny_checkpoint

PROMPTS = [(5, 9, 3, 88, 41, 0, 7), (1,), tuple(range(30))]


def nothing(done: int, total: int) -> None:
    pass


def logits_of(folder: Path, prompts: list[tuple[int, ...]]) -> list[Tensor]:
    checkpoint = Checkpoint.open(folder)
    return checkpoint_logits(checkpoint, read_config(checkpoint.config), prompts, nothing)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", "qwen3", num_attention_heads=4, head_dim=24)


@pytest.mark.parametrize("tie", (False, True))
@pytest.mark.parametrize(
    "family, config", [("llama", {}), ("mistral", {"sliding_window": 9}), ("qwen2", {}), ("qwen3", {"head_dim": 24})]
)
def test_they_are_those_of_transformers(family: str, config: dict, tie: bool, tmp_path: Path) -> None:
    made = tiny_checkpoint(tmp_path / "tiny", family, tie=tie, **config)
    for prompt, logits in zip(PROMPTS, logits_of(made.folder, PROMPTS), strict=True):
        assert deviation(logits, made.logits(list(prompt), [])) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_reference_of_every_family(family: str) -> None:
    folder = shared(f"golden/{family}")
    golden = Golden.read(folder)
    ours = logits_of(folder, [tuple(prompt) for prompt in golden.prompts])
    for prompt, logits, rows in zip(golden.prompts, ours, golden.logits, strict=True):
        assert deviation(logits, rows[: len(prompt)]) < 1e-4


@pytest.mark.parametrize("size", (1, 10_000))
def test_the_size_of_a_band_does_not_show(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    whole = logits_of(tiny.folder, PROMPTS)
    largest = 0
    bands = Rows.bands

    def watched(self: Rows):
        nonlocal largest
        for band in bands(self):
            largest = max(largest, band.nbytes)
            yield band

    monkeypatch.setattr(Rows, "bands", watched)
    monkeypatch.setattr(parameter, "BAND_BYTES", size)
    for logits, expected in zip(logits_of(tiny.folder, PROMPTS), whole, strict=True):
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    # At least a panel of rows, of the widest matrix.
    assert 0 < largest <= max(size, 32 * 128 * 4)


def test_a_part_has_the_rows_of_the_whole(tiny: Tiny) -> None:
    checkpoint = Checkpoint.open(tiny.folder)
    model = make_model(read_config(checkpoint.config), make_layout("none", "none", None, "float32", 0, 1))
    for each in model.parameters():
        rows = Rows(each, checkpoint, lambda count: None)
        whole = rows.all()
        assert len(whole) == rows.rows
        for first in (0, 1, rows.rows // 2, rows.rows - 1):
            for count in {1, 2, 33, rows.rows - first}:
                if first + count <= rows.rows:
                    assert rows.part(first, count).all().equal(whole[first : first + count]), each.name


def test_progress_ends_at_the_total(tiny: Tiny) -> None:
    told: list[tuple[int, int]] = []
    checkpoint = Checkpoint.open(tiny.folder)
    checkpoint_logits(checkpoint, read_config(checkpoint.config), PROMPTS, lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
