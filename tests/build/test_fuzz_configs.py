"""config.json of every family, with values that no model has: a sentence, never a traceback, and little memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig
from llmserve.errors import LlmserveError
from tests.build.mutation import mutated
from tests.models.golden import FAMILIES
from tests.shared import shared


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_config_of_which_parts_are_others(family: str, tmp_path: Path, data: st.DataObject) -> None:
    golden = shared(f"golden/{family}")
    config: dict[str, Any] = json.loads((golden / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        config = mutated(data, config)
    folder = tmp_path / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "model.safetensors").exists():
        (folder / "model.safetensors").symlink_to((golden / "model.safetensors").resolve())
    quant, ranks = data.draw(st.sampled_from(["none", "int4"])), data.draw(st.integers(1, 2))
    said = "an engine."
    try:
        build_engine(Checkpoint.open(folder), tmp_path / "engine", BuildConfig(quant=quant, tp_size=ranks), force=True)
    except LlmserveError as e:
        said = str(e)
    assert re.fullmatch(r"[^\n]{1,1500}\.", said)
