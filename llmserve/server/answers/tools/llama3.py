"""JSON as the whole answer, or behind `<|python_tag|>`, several with semicolons between them: Llama 3.1 to 3.3.

Source: Meta's prompt format for Llama 3.1 and the models' chat templates. Calls of the built-in tools, which are
Python, are content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.choices import anything_but, one_of
from llmserve.server.answers.tools.form import Function, names_of, openai_id
from llmserve.server.answers.tools.json_calls import JsonCalls, Syntax
from llmserve.server.grammars import literal
from llmserve.tokenizer import ChatPrompt

SYNTAX = Syntax(opening="<|python_tag|>", between=";", bare=True)


class Llama3:
    """See `form.ToolForm`."""

    name = "llama3"
    marks = (SYNTAX.opening,)

    def is_of(self, chat: ChatPrompt) -> bool:
        return "<|start_header_id|>" in chat.template and '"parameters": ' in chat.template

    def parser(self, functions: Sequence[Function]) -> Parser:
        return JsonCalls(SYNTAX, names_of(functions))

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return ['answer: call ("; " call)*' if many else "answer: call", *self._call(functions)]

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        calls = 'call ("; " call)*' if many else "call"
        return [f"answer: {calls} | TEXT", anything_but(r'\s*\{\s*"(name|type)"'), *self._call(functions)]

    def _call(self, functions: Sequence[Function]) -> list[str]:
        return one_of(functions, lambda name: (literal(f'{{"name": {literal(name)}, "parameters": '), '"}"'))

    def new_id(self) -> str:
        return openai_id()
