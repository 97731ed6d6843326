"""One answer's text → its parts: what is reasoning, and, in what is not, which tools are called."""

from __future__ import annotations

from collections.abc import Iterable

from llmserve.server.answers.parts import AnswerPart, CallArguments, CallBegin, Content, Parser, Reasoning
from llmserve.server.answers.reasoning.form import ReasoningParser


class AnswerReader:
    """See `parts.Parser`. None: there is no reasoning, or there are no calls, to be found in this text.

    `one_call`: calls beyond the first are left out. `keeps_reasoning`: reasoning is a part, not left out.
    """

    def __init__(
        self,
        reasoning: ReasoningParser | None = None,
        tools: Parser | None = None,
        *,
        one_call: bool = False,
        keeps_reasoning: bool = True,
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._one_call = one_call
        self._keeps_reasoning = keeps_reasoning
        self._seen = 0  # characters fed
        self._fed = 0  # to the tools' parser
        self._reasoned = 0  # characters that it was not fed, all of them before those that it was

    def feed(self, text: str) -> list[AnswerPart]:
        content = Content(text, self._seen)
        self._seen += len(text)
        if self._reasoning is None and self._tools is None:
            return [content] if text else []
        return self._kept(self._called([content] if self._reasoning is None else self._reasoning.feed(text)))

    def end(self) -> list[AnswerPart]:
        parts = self._called([] if self._reasoning is None else self._reasoning.end())
        return self._kept(parts if self._tools is None else [*parts, *map(self._placed, self._tools.end())])

    @property
    def reasoning_chars(self) -> float:
        """How many of the text's first characters are reasoning with its markers; without end while it goes on."""
        return 0 if self._reasoning is None else self._reasoning.chars

    def _called(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        if self._tools is None:
            return parts
        found: list[AnswerPart] = []
        for part in parts:
            if not isinstance(part, Content):
                found.append(part)
                continue
            self._reasoned = part.at - self._fed
            self._fed += len(part.text)
            found += map(self._placed, self._tools.feed(part.text))
        return found

    def _placed(self, part: AnswerPart) -> AnswerPart:
        """In all of the text."""
        return Content(part.text, part.at + self._reasoned) if isinstance(part, Content) else part

    def _kept(self, parts: Iterable[AnswerPart]) -> list[AnswerPart]:
        return [part for part in parts if not self._is_left_out(part)]

    def _is_left_out(self, part: AnswerPart) -> bool:
        match part:
            case CallBegin(index) | CallArguments(index):
                return self._one_call and index > 0
            case Reasoning():
                return not self._keeps_reasoning
            case _:
                return not part.text
