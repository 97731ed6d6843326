from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmserve.request import Request
from tests.engine.answers import Answer, Built, alone, some_requests
from tests.kernels import SETS
from tests.tiny import build, tiny_checkpoint

ENGINES: dict[str, tuple[int | None, dict[str, Any], dict[str, Any]]] = {
    "float32": (None, {}, {}),
    "float32, windows": (20, {}, {}),
    "float32, bfloat16 KV": (None, {}, {"kv_cache_dtype": "bfloat16"}),
    "bfloat16, windows": (20, {"dtype": "bfloat16"}, {}),
    "float16, int8 KV": (None, {"dtype": "float16"}, {"kv_cache_dtype": "int8"}),
    "int8, int8 KV": (None, {"quant": "int8"}, {"kv_cache_dtype": "int8", "activations": "int8"}),
    "int8, bfloat16 KV, windows": (20, {"quant": "int8"}, {"kv_cache_dtype": "bfloat16", "activations": "int8"}),
    "int8, bfloat16 activations": (None, {"quant": "int8"}, {"activations": "bfloat16"}),
    "int4, int8 KV, windows": (20, {"quant": "int4"}, {"kv_cache_dtype": "int8", "activations": "int8"}),
    "int4, float32 activations": (None, {"quant": "int4"}, {"activations": "float32"}),
    "reference": (None, {}, {"kernels": "reference"}),
    "reference, windows": (20, {}, {"kernels": "reference"}),
}
"""Sliding window, how it is built, how it is run. On the kernels unless it is said."""
if not SETS:
    ENGINES = {name: case for name, case in ENGINES.items() if name.startswith("reference")}


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make(window, **build) → an engine of a Mistral, which is a Llama but for the windows."""
    made: dict[str, Path] = {}

    def engine(window: int | None, **config: Any) -> Path:
        if (key := f"{window} {config}") not in made:
            place = tmp_path_factory.mktemp("engine")
            checkpoint = tiny_checkpoint(place / "tiny", "mistral", sliding_window=window).folder
            made[key] = build(checkpoint, place / "engine", **config)
        return made[key]

    return engine


@pytest.fixture(scope="session", params=ENGINES)
def built(request: pytest.FixtureRequest, make: Callable[..., Path]) -> Built:
    window, config, run = ENGINES[request.param]
    return Built(make(window, **config), run, window)


@pytest.fixture(scope="session")
def requests() -> list[Request]:
    return some_requests()


@pytest.fixture(scope="session")
def expected(built: Built, requests: list[Request]) -> dict[int, Answer]:
    return alone(built, requests)


@pytest.fixture(scope="session")
def long_requests(requests: list[Request]) -> list[Request]:
    """The same with answers of several blocks, so that a small cache runs full while they grow."""
    return [replace(r, sampling=replace(r.sampling, max_tokens=60)) for r in requests]


@pytest.fixture(scope="session")
def long_expected(built: Built, long_requests: list[Request]) -> dict[int, Answer]:
    return alone(built, long_requests)
