"""docs/models.md is what the registry says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_of_models_is_up_to_date() -> None:
    script = ROOT / "scripts" / "list_models.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    written = (ROOT / "docs" / "models.md").read_text()
    assert done.stdout == written, "run `python scripts/list_models.py > docs/models.md`"
