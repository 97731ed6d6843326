"""Rules of a grammar by which one of several tools is called, or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmserve.server.answers.tools.form import Function
from llmserve.server.grammars import inline_schema, literal


def one_of(functions: Sequence[Function], around: Callable[[str], tuple[str, str]]) -> list[str]:
    """`call` is a call of one of them; `around` gives, for its name, what stands around its arguments.

    Arguments without a schema are any object.
    """
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(functions)))}"]
    for i, function in enumerate(functions):
        before, after = around(function["name"])
        rules.append(f"call_{i}: {literal(before)} arguments_{i} {literal(after) if after else ''}".rstrip())
        rules.append(f"arguments_{i}: {inline_schema(function.get('parameters') or {'type': 'object'})}")
    return rules


def anything_but(beginning: str) -> str:
    """`TEXT` is any text that does not begin so."""
    return f"TEXT: /(?s:.*)/ & ~/(?s:{beginning}.*)/"


def pattern(name: str) -> str:
    """A name as a part of such a beginning."""
    return re.escape(name).replace("/", r"\/")
