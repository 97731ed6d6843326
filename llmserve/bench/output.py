"""Files that a benchmark leaves. That they can be written is checked before minutes are spent on measuring."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from llmserve.errors import ConfigError, LlmserveError


def check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """ConfigError where one of them could not be written in the end."""
    for flag, file in (("--json", json_file), ("--plot", plot)):
        if file is None:
            continue
        if file.is_dir():
            raise ConfigError(f"{flag} {file} is a folder; give the name of a file.")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise ConfigError(f"{flag} {file} cannot be written; give a file in a folder that exists and is yours.")
    if plot is not None:
        need_package("matplotlib", "--plot")


def need_package(name: str, flag: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"{flag} needs {name}, which is not installed; get it with `pip install {name}`.")


def write_json(file: Path, data: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as e:
        raise LlmserveError(f"{file} cannot be written: {e.strerror or e}.") from None
