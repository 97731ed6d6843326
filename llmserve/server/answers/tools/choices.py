"""Rules of a grammar by which one of several tools is called, or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmserve.errors import RequestError
from llmserve.server.answers.tools.form import Function
from llmserve.server.grammars import inline_schema


def json_arguments(function: Function, rule: str) -> list[str]:
    """Rules by which `rule` is a tool's arguments as JSON; without a schema they are any object."""
    try:
        return [f"{rule}: {inline_schema(function.get('parameters') or {'type': 'object'})}"]
    except RequestError as e:
        told = f"tools cannot be kept to in the parameters of {function['name']:.100}: {e}"
        raise RequestError(told, param="tools") from None


def one_of(
    functions: Sequence[Function],
    around: Callable[[str], tuple[str, str]],
    arguments: Callable[[Function, str], list[str]] = json_arguments,
) -> list[str]:
    """`call` is a call of one of them; `around` gives, for its name, expressions of what stands around its arguments,
    and `arguments` is as `json_arguments`."""
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(functions)))}"]
    for i, function in enumerate(functions):
        before, after = around(function["name"])
        rules += [f"call_{i}: {before} arguments_{i} {after}".rstrip(), *arguments(function, f"arguments_{i}")]
    return rules


def anything_but(beginning: str) -> str:
    """`TEXT` is any text that does not begin so."""
    return f"TEXT: /(?s:.*)/ & ~/(?s:{beginning}.*)/"


def pattern(name: str) -> str:
    """A name as a part of such a beginning."""
    return re.escape(name).replace("/", r"\/")
