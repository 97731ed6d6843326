"""Answers whose first line says who they are for, as GLM's do: where it is a tool's name, the rest calls that tool.

After `<|assistant|>` another answer begins, with a first line of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmserve.server.answers.markers import held_back
from llmserve.server.answers.parts import AnswerPart, CallArguments, CallBegin, Content

AGAIN = "<|assistant|>"


class FirstLineCalls(ABC):
    """See `parts.Parser`; what a call looks like behind the line, a subclass knows.

    Between `feed`s it is in one of its states, each a method that takes what it can and returns whether another one,
    or itself again, has to look at what is left.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""  # not told yet
        self._before = ""  # likewise: the line, and white space, before a call that has not begun
        self._name = ""  # what the line said
        self._calls = 0
        self._after_call = False  # nothing but white space came since the last call
        self._ended = False
        self._parts: list[AnswerPart] = []
        self._state = self._in_first_line

    def feed(self, text: str) -> list[AnswerPart]:
        self._text += text
        return self._run()

    def end(self) -> list[AnswerPart]:
        self._ended = True
        return self._run()

    @abstractmethod
    def _in_call(self) -> bool:
        """The state behind the line with the name."""

    def _run(self) -> list[AnswerPart]:
        self._parts = []
        while self._state():
            pass
        return self._parts

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

    def _in_content(self) -> bool:
        before, again, rest = self._text.partition(AGAIN)
        if again:
            self._before = before[len(before.rstrip()) :]
            self._tell(before.rstrip())
            self._text = rest
            self._state = self._in_first_line
            return True
        if self._ended:
            self._tell("" if self._after_call and not self._text.strip() else self._text)
            self._text = ""
            return False
        known = len(self._text) - held_back(self._text, AGAIN)
        self._tell(self._text[:known])
        self._text = self._text[known:]
        return False

    def _no_call(self) -> bool:
        self._tell(self._before)
        self._before = ""
        self._state = self._in_content
        return True

    def _begin(self) -> None:
        self._parts.append(CallBegin(self._calls, self._name))
        self._calls += 1
        self._before = ""
        self._after_call = True

    def _add_arguments(self, text: str) -> None:
        if text:
            self._parts.append(CallArguments(self._calls - 1, text))

    def _tell(self, text: str) -> None:
        if text:
            self._after_call = False
            self._parts.append(Content(text))
