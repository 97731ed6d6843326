"""What is started is this installation, whatever lies where it is started, and ends with who started it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from llmserve.engine.launch import module_command

ORPHAN = """
import os, signal, sys, time
from llmserve.engine.launch import die_with_parent
parent = os.getpid()
if os.fork() == 0:
    while sys.argv[1] == "first" and os.getppid() == parent:
        time.sleep(0.01)
    die_with_parent(signal.SIGKILL, parent)
    print("it goes on", flush=True)
elif sys.argv[1] != "first":
    os.wait()
os._exit(0)
"""
"""A child whose parent ends first, or waits for it."""


def test_a_folder_of_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "llmserve").mkdir()
    (tmp_path / "llmserve" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    module = "llmserve.engine.rank"
    python, *command = module_command(module)

    def run(*arguments: str) -> str:
        """Without .pth files: an editable installation comes before any folder, and would be found either way."""
        environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
        asked = [python, "-S", *arguments, "{"]
        return subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stderr

    assert "the wrong one" in run("-m", module)  # or the rest shows nothing
    said = run(*command)
    assert "the wrong one" not in said
    assert "RankOptions" in said  # what it was told is none


@pytest.mark.parametrize(("ends", "said"), [("first", ""), ("last", "it goes on\n")])
def test_a_parent_that_has_ended_already_is_noticed(ends: str, said: str) -> None:
    """The kernel signals of ends that are still to come."""
    done = subprocess.run([sys.executable, "-c", ORPHAN, ends], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (said, "")
