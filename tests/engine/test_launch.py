"""What is started is this installation, whatever lies where it is started."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

from llmserve.engine.launch import module_command


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
