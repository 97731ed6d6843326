"""The one place that looks for `tensorrt_llm` and says in a sentence where it cannot be used."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from llmserve.errors import ConfigError

VERSION = "1.2.1"
"""The last release that builds and serves engines; what llmserve calls of it is written down in `contract`."""

INSTALL = f"install it with `pip install tensorrt_llm=={VERSION}` (Python 3.10 or 3.12, CUDA 13), or use NVIDIA's image"

NEEDED = ("builder", "bindings.executor", "models", "mapping", "quantization")
"""Its modules without which there are no engines: upstream removed them after the 1.2 releases."""


def find() -> None:
    """Raises ConfigError where there is no tensorrt_llm at all; imports nothing."""
    if find_spec("tensorrt_llm") is None:
        raise ConfigError(f"tensorrt_llm is not installed, which engines of tensorrt-llm need; {INSTALL}.")


def load() -> str:
    """Imports tensorrt_llm, which takes its time, and gives its version. ConfigError unless we can use that."""
    find()
    try:
        version = str(importlib.import_module("tensorrt_llm").__version__)
    except (ImportError, OSError, AttributeError) as e:  # OSError: one of the libraries that it loads
        raise ConfigError(f"tensorrt_llm cannot be imported ({first_line(e)}); {INSTALL}.") from None
    for name in NEEDED:
        try:
            importlib.import_module(f"tensorrt_llm.{name}")
        except ImportError as e:
            raise ConfigError(
                f"tensorrt_llm {version} has no engines any more (tensorrt_llm.{name}: {first_line(e)}): they were "
                f"removed upstream after 1.2; {INSTALL}."
            ) from None
    if version.partition("+")[0] != VERSION:
        raise ConfigError(f"tensorrt_llm {version} is installed, and llmserve works with {VERSION} only; {INSTALL}.")
    return version


def tensorrt_version() -> str:
    """Of the TensorRT underneath."""
    try:
        return str(importlib.import_module("tensorrt").__version__)
    except (ImportError, OSError, AttributeError) as e:
        raise ConfigError(f"tensorrt cannot be imported ({first_line(e)}); {INSTALL}.") from None


def first_line(error: BaseException) -> str:
    """What a user needs of it: C++ puts a stack behind its sentence."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
