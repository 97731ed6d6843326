"""For all tests: tiny tensors on cores that others use too, where a second thread only waits for the first."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in child processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("llmserve", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llmserve")

CORES = os.sched_getaffinity(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="whole cross products, where a part is tried otherwise")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("full"))


@pytest.fixture(autouse=True)
def unbound() -> Iterator[None]:
    """An engine binds the thread that runs it to one core; later tests' threads and processes would inherit that."""
    yield
    os.sched_setaffinity(0, CORES)
