"""Pieces of grammars in llguidance's Lark: literals, JSON of a schema, choices."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llmserve.server.answers.tools.form import Function


def quoted(text: str) -> str:
    """As JSON, and as Lark, which takes the same escapes."""
    return json.dumps(text, ensure_ascii=False)


def one_of(functions: Sequence[Function], around: Callable[[str], tuple[str, str]]) -> list[str]:
    """Rules by which `call` is a call of one of them; `around` gives, for its name, what stands around its arguments.

    Arguments without a schema are any object.
    """
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(functions)))}"]
    for i, function in enumerate(functions):
        before, after = around(function["name"])
        schema = function.get("parameters") or {"type": "object"}
        rules.append(f"call_{i}: {quoted(before)} arguments_{i} {quoted(after) if after else ''}".rstrip())
        rules.append(f"arguments_{i}: %json {json.dumps(schema, ensure_ascii=False)}")
    return rules
