"""Quantised engines of every family: the same weights on any number of ranks, and the logits that they give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmserve.comm.solo import SoloComm
from tests.forward import deviation
from tests.models.dequantised import dequantised
from tests.models.golden import FAMILIES, Golden, logits
from tests.shared import shared
from tests.thread_ranks import run_ranks
from tests.tiny import build

TOLERANCE = 2e-3
"""Of the logits' range."""

QUANTS = {"int8": {"quant": "int8"}, "int4": {"quant": "int4", "group_size": 32}}


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_dequantised_weights(tmp_path: Path, family: str, quant: str) -> None:
    checkpoint = shared(f"golden/{family}")
    golden, original = Golden.read(checkpoint), load_file(checkpoint / "model.safetensors")
    tied = json.loads((checkpoint / "config.json").read_text())["tie_word_embeddings"]
    # A quantised head beside a table that is not: two tensors of one name. (tests/build/test_quantised.py has those.)
    config = {**QUANTS[quant], **({"head_quant": "none"} if tied else {})}
    engines = {n: build(checkpoint, tmp_path / f"tp{n}", tp_size=n, **config) for n in (1, 2)}
    rounded, of_two = (dequantised(engine, original) for engine in engines.values())
    assert [name for name in rounded if not torch.equal(rounded[name], of_two[name])] == []
    assert any(not torch.equal(rounded[name], original[name]) for name in rounded)

    copy = tmp_path / "rounded"
    copy.mkdir()
    shutil.copy(checkpoint / "config.json", copy)
    save_file(rounded, copy / "model.safetensors")
    expected = logits(build(copy, tmp_path / "plain"), golden, SoloComm(), "reference")
    for ranks, engine in engines.items():
        got = run_ranks(ranks, lambda comm, e=engine: logits(e, golden, comm, activations="float32"))[0]
        for ours, theirs in zip(got, expected, strict=True):
            assert deviation(ours, theirs) < TOLERANCE, ranks
