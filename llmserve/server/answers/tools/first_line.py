"""Answers whose first line says who they are for, as GLM's do: where it is a tool's name, the rest calls that tool.

After `<|assistant|>` another answer begins, with a first line of its own.
"""

from __future__ import annotations

from abc import abstractmethod

from llmserve.server.answers.parts import Content
from llmserve.server.answers.tools.call_parser import CallParser

AGAIN = "<|assistant|>"


class FirstLineCalls(CallParser):
    """See `parts.Parser`; what a call looks like behind the line, a subclass knows."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(AGAIN, self._in_first_line)
        self._names = names
        self._name = ""  # what the line said
        self._space: Content | None = None  # before the mark of this answer, and not told yet

    @abstractmethod
    def _in_call(self) -> bool:
        """The state behind the line with the name."""

    def _in_first_line(self) -> bool:
        """Empty lines before it are none."""
        line, newline, rest = self._text.lstrip().partition("\n")
        if newline and line.strip() in self._names:
            self._name = line.strip()
            self._before += self._text[: len(self._text) - len(rest)]
            self._text = rest
            self._state = self._in_call
            return True
        if not newline and not self._ended and any(name.startswith(line.rstrip()) for name in self._names):
            return False
        return self._no_call()

    def _opened(self, space: str) -> None:
        self._text = self._text[len(space) :]
        self._space = self._content(space)
        self._text = self._text[len(AGAIN) :]
        self._state = self._in_first_line

    def _begin(self, name: str) -> None:
        self._space = None
        super()._begin(name)

    def _no_call(self) -> bool:
        if self._space is not None and self._space.text:
            self._after_call = False
            self._parts.append(self._space)
        self._space = None
        return super()._no_call()
