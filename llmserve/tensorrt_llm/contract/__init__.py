"""The contract with TensorRT-LLM: what llmserve calls of it, and what it takes for granted about that, with sources.

`stubs/` holds it, as Python type stubs; `contract()` reads them. Knows nothing of the adapter.
"""

from __future__ import annotations

import re
from pathlib import Path

from llmserve.tensorrt_llm.contract.tree import Folder, Tree

STUBS = Path(__file__).parent / "stubs"
VERSION = "1.2.1"
"""The release that the contract is of: the last stable one with an engine builder."""
COMPILED = "tensorrt_llm.bindings"
"""Upstream this is no Python: a wheel has it compiled, with stubs, and a source tree has nothing of it."""


def contract() -> Tree:
    """The names, by module, that llmserve relies on."""
    return Tree(Folder(STUBS, "tensorrt_llm"))


def source(*documents: str) -> str:
    """Where a fact is from: the `Source:` of the first of these docstrings that has one, or ""."""
    for document in documents:
        if found := re.search(r"^Source: (.+?)\Z", document, re.MULTILINE | re.DOTALL):
            return " ".join(found.group(1).split())
    return ""
