"""What parsers of tool calls have in common: content up to a marker, behind which a call may begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from llmserve.server.answers.machine import TextMachine
from llmserve.server.answers.parts import CallArguments, CallBegin


class CallParser(TextMachine, ABC):
    """What begins behind `opening`, a subclass knows; what turns out to be no call is content."""

    def __init__(self, opening: str, begin: Callable[[], bool] | None = None) -> None:
        """`begin`: the state that an answer begins in; None: content."""
        super().__init__(begin or self._in_content)
        self._opening = opening
        self._before = ""  # not told yet: what came before a call that has not begun
        self._calls = 0
        self._after_call = False  # nothing but white space came since the last call
        self._searched = 0  # of `_text`, for the marker behind a call
        self._object = ObjectScan()

    @abstractmethod
    def _opened(self, space: str) -> None:
        """`_text` begins with `space` and the marker: take them, and go into the state behind it."""

    def _in_content(self) -> bool:
        known, opened = self._take_before(self._opening)
        if self._ended and not opened and self._after_call and not known.strip():
            return False
        self._tell(known)
        if opened:
            self._opened(self._text[: self._text.index(self._opening)])
        return opened

    def _up_to(self, closing: str) -> str | None:
        """What is there before this marker, or before the text's end, and is not taken; None: neither has come."""
        at = self._text.find(closing, self._searched)
        if at < 0 and not self._ended:
            self._searched = max(0, len(self._text) - len(closing) + 1)
            return None
        self._searched = 0
        return self._text if at < 0 else self._text[:at]

    def _no_call(self) -> bool:
        """A state's end."""
        self._tell(self._before)
        self._before = ""
        self._state = self._in_content
        return True

    def _begin(self, name: str) -> None:
        self._parts.append(CallBegin(self._calls, name))
        self._calls += 1
        self._before = ""
        self._after_call = True
        self._object = ObjectScan()

    def _take_object(self) -> bool:
        """More of the arguments, passed on as the JSON object that they are written as; whether that is whole."""
        size = self._object.take(self._text)
        self._add_arguments(self._text[:size])
        self._text = self._text[size:]
        return self._object.is_whole

    def _add_arguments(self, text: str) -> None:
        if text:
            self._parts.append(CallArguments(self._calls - 1, text))

    def _tell(self, text: str) -> None:
        if text:
            self._after_call = False
            self._parts.append(self._content(text))


class ObjectScan:
    """Finds the end of a JSON object: brackets are counted, those in strings not."""

    def __init__(self) -> None:
        self.is_whole = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def take(self, text: str) -> int:
        """How many of the characters that come next are the object's."""
        for position, char in enumerate(text, start=1):
            if self._in_string:
                self._in_string = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_whole = True
                    return position
        return len(text)
