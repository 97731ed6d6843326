"""A checkpoint's chat template: messages in, prompt text out, by Hugging Face's conventions.

Templates come from strangers, so they run in jinja2's sandbox: no attributes of Python objects, no changes to
what they are given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmserve.errors import EngineDirError, RequestError

MAX_REASON = 500


class ChatTemplate:
    """One compiled template with the special tokens it may name (`bos_token`, `eos_token`, ...).

    `reads` has the names of the variables that it looks at.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str | list[str]]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        try:
            self._template = environment.from_string(source)
            self.reads = frozenset(meta.find_undeclared_variables(environment.parse(source)))
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as e:  # Python compiles it after jinja2
            raise EngineDirError(f"The chat template is not valid Jinja ({e}); correct it in the checkpoint.") from None
        self._variables = {"tools": None, "documents": None, **special_tokens}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, special tokens included. Raises RequestError where the template refuses."""
        own = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render({**self._variables, **(variables or {}), **own})
        except Exception as e:  # whatever a template trips over is in the messages: it has nothing else to read
            reason = " ".join(str(e).split())[:MAX_REASON]
            raise RequestError(f"The model's chat template refuses these messages: {reason}", param="messages") from e


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own `tojson` escapes HTML, which a model has never seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
