from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.request import Request
from tests.engine.answers import Answer, alone, some_requests
from tests.tiny import build, tiny_checkpoint


@pytest.fixture(scope="session", params=[None, 20], ids=["full attention", "windows"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of a Mistral, which is a Llama but for the windows."""
    place = tmp_path_factory.mktemp("engine")
    return build(tiny_checkpoint(place / "tiny", "mistral", sliding_window=request.param).folder, place / "engine")


@pytest.fixture(scope="session")
def requests() -> list[Request]:
    return some_requests()


@pytest.fixture(scope="session")
def expected(folder: Path, requests: list[Request]) -> dict[int, Answer]:
    return alone(folder, requests)
