"""Running a module of the tests on several ranks, under the mpirun that users get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llmserve.engine.launch import find_mpirun, rank_environment

ROOT = Path(__file__).parents[1]


def mpirun(ranks: int, module: str, *arguments: str | Path) -> str:
    """What all ranks printed. The test fails if one of them does."""
    command = [find_mpirun(), "-n", str(ranks), "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    command += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command += [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**rank_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
