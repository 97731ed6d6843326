"""The scheduler needs the standard library, `llmserve.request` and `llmserve.errors`, and loads nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llmserve

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import llmserve.scheduler
print(*sorted(set(sys.modules) - before))
"""


def test_only_the_standard_library_and_requests_are_imported() -> None:
    root = Path(llmserve.__file__).parents[1]
    # -S: without site-packages, so that a third-party import fails even inside a try.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(root)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.split(".")[0] == "llmserve"}
    assert {name for name in ours if not name.startswith("llmserve.scheduler")} == {
        "llmserve",
        "llmserve.errors",
        "llmserve.request",
    }
    assert {name.split(".")[0] for name in set(loaded) - ours} <= sys.stdlib_module_names
    assert not {"torch", "numpy", "pydantic", "msgspec"} & set(loaded)
