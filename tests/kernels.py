"""What an engine can be run with on this machine."""

from __future__ import annotations

import pytest

from llmserve.ops.cpu import InstructionSet, instruction_sets


def sets_here() -> list[InstructionSet]:
    """None where the extension is not built: then only the reference operations are there."""
    try:
        return instruction_sets()
    except ImportError:
        return []


SETS = sets_here()
BUILT = pytest.mark.skipif(not SETS, reason="the CPU extension is not built here")
KERNELS = [found.name for found in SETS]
"""Values of --kernels, best first; `reference` goes everywhere."""
