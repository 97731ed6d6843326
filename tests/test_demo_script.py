"""scripts/demo.sh says what is wrong with how it was called, before it sets anything up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "demo.sh"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--once", "--port"], "demo: --port wants a number after it.\n"),
        (["--twice"], "demo: unknown option --twice; use --once or --port N.\n"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments: list[str], said: str) -> None:
    done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
