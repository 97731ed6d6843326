"""`<think>…</think>` before the answer: Qwen3, QwQ, DeepSeek-R1 and what was distilled from it, GLM-4.5.

The model opens it itself, or its template does at the prompt's end, so that the answer begins inside. White space next
to the markers belongs to them.
"""

from __future__ import annotations

import math
import re

from llmserve.server.answers.machine import TextMachine
from llmserve.server.answers.parts import Content, Reasoning
from llmserve.server.answers.reasoning.form import ReasoningParser
from llmserve.tokenizer import ChatPrompt

OPEN, CLOSE = "<think>", "</think>"
OPENED = re.compile(rf"{OPEN}\s*\Z")
CLOSED = re.compile(rf"{CLOSE}\s*\Z")


class Think:
    """See `form.ReasoningForm`."""

    name = "think"

    def is_of(self, chat: ChatPrompt) -> bool:
        return CLOSE in chat.template

    def parser(self, prompt: str) -> ReasoningParser:
        return ThinkParser(inside=OPENED.search(prompt) is not None)

    def rules(self, prompt: str) -> list[str] | None:
        if CLOSED.search(prompt):
            return None
        thought = ["thought[lazy]: /(?s:.*)/ " + f'"{CLOSE}"', r"WHITE: /\s*/"]  # the first marker that comes ends it
        if OPENED.search(prompt):
            return ["reasoning: thought WHITE", *thought]
        return [f'reasoning: ("{OPEN}" thought WHITE)?', *thought]


class ThinkParser(TextMachine):
    """See `form.ReasoningParser`. `inside`: the text begins in the middle of reasoning."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__(self._opened if inside else self._begin)
        self._chars = math.inf

    @property
    def chars(self) -> float:
        return self._chars

    def _begin(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(OPEN):
            self._text = text[len(OPEN) :]
            self._state = self._opened
        elif self._ended or not OPEN.startswith(text):
            self._chars = 0
            self._state = self._answer
        else:
            return False
        return True

    def _opened(self) -> bool:
        self._text = self._text.lstrip()
        if self._text:
            self._state = self._thinking
        return bool(self._text)

    def _thinking(self) -> bool:
        thought, closed = self._take_before(CLOSE)
        self._tell(Reasoning(thought))
        if closed:
            self._text = self._text.partition(CLOSE)[2]
            self._chars = self._seen - len(self._text)
            self._state = self._closed
        return closed

    def _closed(self) -> bool:
        self._text = self._text.lstrip()
        if self._text:
            self._state = self._answer
        return bool(self._text)

    def _answer(self) -> bool:
        text, self._text = self._text, ""
        self._tell(self._content(text))
        return False

    def _tell(self, part: Content | Reasoning) -> None:
        if part.text:
            self._parts.append(part)
