"""The stand-in inside the test's own process, for tests that need no ranks."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tests.tensorrt_llm.standin import SITE, StandIn

_OURS = ("tensorrt_llm", "tensorrt", "standin_control")


@contextmanager
def installed(stand_in: StandIn) -> Iterator[ModuleType]:
    """`tensorrt_llm`, with its settings; gone again afterwards, with all of its modules. torch stays as it is."""
    assert not any(name.split(".")[0] in _OURS for name in sys.modules)
    sys.path.insert(0, str(SITE))
    os.environ["TENSORRT_LLM_STANDIN"] = str(stand_in.folder)
    try:
        yield importlib.import_module("tensorrt_llm")
    finally:
        del os.environ["TENSORRT_LLM_STANDIN"]
        sys.path.remove(str(SITE))
        for name in [n for n in sys.modules if n.split(".")[0] in _OURS]:
            del sys.modules[name]
