"""Stands in for TensorRT-LLM 1.2.1 in tests: `site/` goes on the path of the process that is to find it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SITE = Path(__file__).parent / "site"
ROOT = Path(__file__).parents[3]


class StandIn:
    """One for each server or build that a test starts: what is set, broken and recorded lies in its folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """`settings`: fields of `Settings` in `site/standin_control.py`; `ranks={1: {…}}` for one rank's."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings), "utf-8")

    def environment(self) -> dict[str, str]:
        """For a subprocess, mpirun among them: PYTHONPATH, and where this folder is."""
        path = [str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "TENSORRT_LLM_STANDIN": str(self.folder)}

    def switch(self, name: str, on: bool = True) -> None:
        """`hang`, `fail`, `die-N`: see `standin_control.py`."""
        file = self.folder / name
        file.touch() if on else file.unlink(missing_ok=True)

    def calls(self, name: str = "", rank: int = 0) -> list[dict[str, Any]]:
        """What a rank was called, in order; of one name only where it is given."""
        file = self.folder / f"calls-{rank}.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        return [call for line in lines if (call := json.loads(line))["call"] == name or not name]
