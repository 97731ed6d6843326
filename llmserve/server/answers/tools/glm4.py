"""The tool's name on a line, then its arguments as JSON: GLM-4.

Source: the models' chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.choices import anything_but, one_of, pattern
from llmserve.server.answers.tools.first_line import AGAIN, FirstLineCalls
from llmserve.server.answers.tools.form import Function, names_of, openai_id
from llmserve.server.grammars import literal
from llmserve.tokenizer import ChatPrompt


class Glm4:
    """See `form.ToolForm`."""

    name = "glm4"
    marks = (AGAIN,)

    def is_of(self, chat: ChatPrompt) -> bool:
        """GLM-4.5 has markers around its calls."""
        return all(mark in chat.template for mark in ("[gMASK]", "<|observation|>")) and (
            "<tool_call>" not in chat.template
        )

    def parser(self, functions: Sequence[Function]) -> Parser:
        return Glm4Calls(names_of(functions))

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        """One: after a call it gives the word to somebody else."""
        return ["answer: call", *self._call(functions)]

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        names = "|".join(pattern(function["name"]) for function in functions)
        return ["answer: call | TEXT", anything_but(rf"\s*({names})\s*\{{"), *self._call(functions)]

    def _call(self, functions: Sequence[Function]) -> list[str]:
        return one_of(functions, lambda name: (literal(f"{name}\n"), ""))

    def new_id(self) -> str:
        return openai_id()


class Glm4Calls(FirstLineCalls):
    def _in_call(self) -> bool:
        text = self._text.lstrip()
        if not text and not self._ended:
            return False
        if not text.startswith("{"):
            return self._no_call()
        self._begin(self._name)
        self._text = text
        self._state = self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        if is_whole := self._take_object():
            self._state = self._in_content
        return is_whole
