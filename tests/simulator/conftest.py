from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Build, build

__all__ = ["build"]  # a fixture is found by being here


@pytest.fixture(scope="session")
def demo_engine(build: Build) -> Path:
    return build("demo", "--quant", "int8")
