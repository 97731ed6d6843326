"""The parts of an answer, and what makes them of its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the answer says to whoever asked. `at`: where it begins in the text that was fed, where that is told
    as it stands."""

    text: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A tool is called. Calls are numbered from 0, and one ends where the next begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, which put together are JSON if the model wrote JSON."""

    index: int
    text: str


AnswerPart = Content | Reasoning | CallBegin | CallArguments


class Parser(Protocol):
    """Makes parts of one answer's text. Put together they do not depend on how the text was cut.

    What may still become a marker is held back; what turns out not to be well formed is content. `end` is called once,
    after the last text.
    """

    def feed(self, text: str) -> list[AnswerPart]: ...

    def end(self) -> list[AnswerPart]: ...


@dataclass(slots=True)
class Call:
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """All parts put together."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    @staticmethod
    def of(parts: Iterable[AnswerPart]) -> Answer:
        answer = Answer()
        for part in parts:
            answer.add(part)
        return answer

    def add(self, part: AnswerPart) -> None:
        match part:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case CallBegin(_, name):
                self.calls.append(Call(name))
            case CallArguments(index, text):
                self.calls[index].arguments += text
