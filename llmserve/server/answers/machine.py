"""What parsers of answers have in common: text that arrives in pieces, and states that take what they can of it."""

from __future__ import annotations

from collections.abc import Callable

from llmserve.server.answers.parts import AnswerPart, Content


class TextMachine:
    """See `parts.Parser`. Between `feed`s it is in one of its states, each a method that takes what it can of `_text`.

    A state returns whether another one, or itself again, has to look at what is left.
    """

    def __init__(self, begin: Callable[[], bool]) -> None:
        self._text = ""  # not told yet
        self._seen = 0  # characters fed
        self._ended = False
        self._parts: list[AnswerPart] = []
        self._state = begin

    def feed(self, text: str) -> list[AnswerPart]:
        self._text += text
        self._seen += len(text)
        return self._run()

    def end(self) -> list[AnswerPart]:
        self._ended = True
        return self._run()

    def _run(self) -> list[AnswerPart]:
        self._parts = []
        while self._state():
            pass
        return self._parts

    def _content(self, text: str) -> Content:
        """What stood right before what is left."""
        return Content(text, self._seen - len(self._text) - len(text))

    def _take_before(self, marker: str) -> tuple[str, bool]:
        """What is known to come before `marker`, and whether that came; then it begins what is left, after its white
        space."""
        before, found, _ = self._text.partition(marker)
        if found:
            known = before.rstrip()
        else:
            known = self._text if self._ended else self._text[: len(self._text) - _held_back(self._text, marker)]
        self._text = self._text[len(known) :]
        return known, bool(found)


def _held_back(text: str, marker: str) -> int:
    """How many last characters of `text`, which does not contain it, may be the beginning of `marker`.

    White space before it counts, because it belongs to the marker where one comes.
    """
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:size]):
            break
    else:
        size = 0
    return len(text) - len(text[: len(text) - size].rstrip())
