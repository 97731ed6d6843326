from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Llama of 4 heads, 2 KV heads, 64 hidden and 128 inner columns, in a folder where nothing else is."""
    folder = tiny_checkpoint(tmp_path / "checkpoint").folder
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder
