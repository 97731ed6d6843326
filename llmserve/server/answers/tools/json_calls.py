"""Tool calls written as JSON, `{"name": …, "arguments": {…}}`, behind a marker or as the whole answer.

What the three forms that do so (Hermes, Llama 3, Mistral) differ in is `Syntax`. A call begins once its name and the
brace of its arguments are there, and arguments are passed on as they are written: if they are broken, whoever called
sees it. What breaks before that is content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmserve.server.answers.tools.call_parser import CallParser
from llmserve.server.answers.tools.written import as_json, as_text, is_text, no_number

MAX_HEAD = 512
"""Characters of a call before its arguments; what is longer is none that a parser would wait for."""

SPACE = r"\s*"
NAME = r'[^"\\\n]*'


@dataclass(frozen=True)
class Syntax:
    """What is around calls."""

    opening: str  # the marker before them
    lead: str = ""  # a character between that and the first
    between: str = ""  # a character between two; empty: each has markers of its own
    closing: str = ""  # the marker behind them
    bare: bool = False  # the answer may begin with a call without a marker; then its name has to be a tool's

    @cached_property
    def first_head(self) -> Head:
        return Head([SPACE, *self.lead])

    @cached_property
    def next_head(self) -> Head:
        return Head([])


class Head:
    """What a call begins with, up to the brace of its arguments, as patterns: all of it, or a beginning."""

    def __init__(self, lead: Sequence[str]) -> None:
        ways = [
            [*map(_pattern, lead), SPACE, r"\{", SPACE, *kind, *_key("name"), '"', NAME, '"', SPACE, ",", SPACE,
             *_key(arguments), r"\{"]
            for kind in ((), (*_key("type"), *'"function"', SPACE, ",", SPACE))
            for arguments in ("arguments", "parameters")
        ]  # fmt: skip
        whole = ("".join(f"({atom})" if atom == NAME else atom for atom in way) for way in ways)
        self._whole = re.compile("|".join(whole))
        self._beginning = re.compile("|".join(map(_beginning, ways)))

    def match(self, text: str) -> tuple[str, int] | None:
        """The call's name, and where its arguments begin."""
        match = self._whole.match(text, 0, MAX_HEAD)
        return None if match is None else (next(name for name in match.groups() if name is not None), match.end() - 1)

    def may_follow(self, text: str) -> bool:
        """Whether it is the beginning of one."""
        return len(text) < MAX_HEAD and self._beginning.fullmatch(text) is not None


def _pattern(atom: str) -> str:
    return atom if atom == SPACE else re.escape(atom)


def _key(name: str) -> tuple[str, ...]:
    return (*f'"{name}"', SPACE, ":", SPACE)


def _beginning(atoms: Sequence[str]) -> str:
    pattern = ""
    for atom in reversed(atoms):
        pattern = f"(?:{atom}{pattern})?"
    return pattern


class JsonCalls(CallParser):
    """See `parts.Parser`."""

    def __init__(self, syntax: Syntax, names: frozenset[str]) -> None:
        super().__init__(syntax.opening, self._answer_begins if syntax.bare else None)
        self._syntax = syntax
        self._names = names
        self._head = syntax.first_head
        self._needs_name = False  # only a tool's name makes it a call

    def _answer_begins(self) -> bool:
        text = self._text.lstrip()
        if not text and not self._ended:
            return False
        if text.startswith("{"):
            self._expect_call(before=self._text[: len(self._text) - len(text)], head=self._syntax.next_head)
            self._needs_name = True
        else:
            self._state = self._in_content
        return True

    def _opened(self, space: str) -> None:
        self._expect_call(before=space + self._opening, head=self._syntax.first_head)

    def _expect_call(self, before: str, head: Head) -> None:
        """A call may come behind `before`, which `_text` begins with."""
        self._before = before
        self._text = self._text[len(before) :]
        self._head = head
        self._needs_name = False
        self._state = self._call_begins

    def _call_begins(self) -> bool:
        found = self._head.match(self._text)
        if found is not None:
            name, at = found
            if self._needs_name and name not in self._names:
                return self._no_call()
            self._begin(name)
            self._text = self._text[at:]
            self._state = self._in_arguments
            return True
        if not self._ended and self._head.may_follow(self._text):
            return False
        if self._syntax.closing and re.match(r"\s*\{", self._text[:MAX_HEAD]):
            self._state = self._in_unusual_call
            return True
        return self._no_call()

    def _in_unusual_call(self) -> bool:
        """JSON that may be a call in another order, or with its arguments as a text: seen when it is whole."""
        written = self._up_to(self._syntax.closing)
        if written is None:
            return False
        call = _call(written)
        if call is None:
            return self._no_call()
        self._begin(call[0])
        self._add_arguments(call[1])
        self._text = self._text[len(written) + len(self._syntax.closing) :]
        self._state = self._in_content
        return True

    def _in_arguments(self) -> bool:
        if is_whole := self._take_object():
            self._state = self._call_ends
        return is_whole

    def _call_ends(self) -> bool:
        """Closing braces, as many as there are, and what stands behind a call."""
        text = self._text.lstrip()
        closing, between = self._syntax.closing, self._syntax.between
        if text.startswith("}"):
            self._text = text[1:]
            return True
        if not text or (len(text) < len(closing) and closing.startswith(text)):
            self._text = "" if self._ended else self._text
            self._state = self._in_content if self._ended else self._state
            return self._ended
        if between and text.startswith(between):
            self._expect_call(before=self._text[: len(self._text) - len(text) + 1], head=self._syntax.next_head)
            return True
        if closing and text.startswith(closing):
            self._text = text[len(closing) :]
        self._state = self._in_content
        return True


def _call(text: str) -> tuple[str, str] | None:
    """Name and arguments."""
    try:
        value: Any = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not is_text(value["name"]):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return value["name"], as_text(arguments)
    written = as_json(arguments) if isinstance(arguments, dict) else None
    return None if written is None else (value["name"], written)
