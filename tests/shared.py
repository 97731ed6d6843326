"""What lies beside the repository and is not part of it: reference logits, real vocabularies, trained models."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1] / ".." / "shared"


def shared(path: str) -> Path:
    """`../shared/<path>`, seen from the repository; without it the test is skipped, and says so."""
    if not (SHARED / path).exists():
        pytest.skip(f"../shared/{path} is not beside this checkout")
    return SHARED / path
