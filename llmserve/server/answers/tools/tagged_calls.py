"""Tool calls whose arguments stand between tags, one by one, each as a text: GLM-4.5 and Qwen3-Coder.

What is meant by such a text the tool's schema says. A call is passed on, as JSON, once it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.call_parser import CallParser
from llmserve.server.answers.tools.form import Function, openai_id
from llmserve.server.answers.tools.written import as_json, finite, no_number
from llmserve.tokenizer import ChatPrompt

OPENING, CLOSING = "<tool_call>", "</tool_call>"

Read = Callable[[str], tuple[str, Mapping[str, str]] | None]
"""What stands between the markers → name and arguments; None: it is no call."""

NAMES = {"True": True, "False": False, "None": None}
"""As templates written in Python show to a model what it has said."""

KINDS = {str: {"string"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, type(None): {"null"},
         list: {"array"}, dict: {"object"}}  # fmt: skip


@dataclass(frozen=True)
class TaggedForm:
    """See `form.ToolForm`. There are no grammars for such calls."""

    name: str
    tags: tuple[str, ...]  # which a template has that shows them to a model
    read: Read
    marks: tuple[str, ...] = ()

    def is_of(self, chat: ChatPrompt) -> bool:
        return all(tag in chat.template for tag in (OPENING, *self.tags))

    def parser(self, functions: Sequence[Function]) -> Parser:
        return TaggedCalls(self.read, functions)

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return None

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return None

    def new_id(self) -> str:
        return openai_id()


class TaggedCalls(CallParser):
    """See `parts.Parser`."""

    def __init__(self, read: Read, functions: Sequence[Function]) -> None:
        super().__init__(OPENING)
        self._read = read
        self._schemas = {function["name"]: function.get("parameters") or {} for function in functions}

    def _opened(self, space: str) -> None:
        self._before = space + OPENING
        self._text = self._text[len(self._before) :]
        self._state = self._in_call

    def _in_call(self) -> bool:
        written = self._up_to(CLOSING)
        if written is None:
            return False
        call = self._read(written)
        if call is None:
            return self._not_read(written)
        name, texts = call
        properties = self._schemas.get(name, {}).get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        arguments = as_json({key: meant(text, known.get(key)) for key, text in texts.items()})
        if arguments is None:
            return self._not_read(written)
        self._begin(name)
        self._add_arguments(arguments)
        self._text = self._text[len(written) + len(CLOSING) :]
        self._state = self._in_content
        return True

    def _not_read(self, written: str) -> bool:
        """A state's end. Of all markers before one that closes, only the first and the last can begin a call: each may
        cost reading all that is there."""
        if (last := written.rfind(OPENING)) > 0:
            between = written[:last].rstrip()
            self._before += between
            self._text = self._text[len(between) :]
        return self._no_call()


def meant(text: str, schema: Any) -> Any:
    """The value: JSON where there can be something else than a text, and it is some."""
    kinds = frozenset(_kinds(schema))
    if kinds == {"string"}:
        return text
    try:
        value = NAMES[text] if text in NAMES else json.loads(text, parse_constant=no_number, parse_float=finite)
    except (ValueError, RecursionError):
        return text
    return text if "string" in kinds and not kinds & KINDS[type(value)] else value


def _kinds(schema: Any) -> Iterator[str]:
    """Types that the schema names; nothing where it leaves them open."""
    if not isinstance(schema, Mapping):
        return
    named = schema.get("type")
    yield from (kind for kind in [named, *_list(named)] if isinstance(kind, str))
    for way in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))):
        yield from _kinds(way)
    for value in (*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])):
        yield from KINDS[type(value)]


def _list(value: Any) -> list[Any]:
    """It is the client's, and may be anything."""
    return value if isinstance(value, list) else []
