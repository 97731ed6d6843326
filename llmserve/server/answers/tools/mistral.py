"""`[TOOL_CALLS]` and a list of JSON objects: Mistral 7B v0.3, Nemo, Mixtral 8x22B.

Source: the models' chat templates, which also want ids of nine letters and digits.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.choices import anything_but, one_of
from llmserve.server.answers.tools.form import Function, names_of
from llmserve.server.answers.tools.json_calls import JsonCalls, Syntax
from llmserve.server.grammars import literal, token
from llmserve.tokenizer import ChatPrompt

SYNTAX = Syntax(opening="[TOOL_CALLS]", lead="[", between=",", closing="]")
ID_CHARS = string.ascii_letters + string.digits


class Mistral:
    """See `form.ToolForm`. In a grammar, the marker is the token that it is to these models; without one there is no
    grammar."""

    name = "mistral"
    marks = (SYNTAX.opening,)

    def is_of(self, chat: ChatPrompt) -> bool:
        """Later models write name and arguments without JSON around them."""
        return SYNTAX.opening in chat.template and "[ARGS]" not in chat.template

    def parser(self, functions: Sequence[Function]) -> Parser:
        return JsonCalls(SYNTAX, names_of(functions))

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        if SYNTAX.opening not in ids:
            return None
        return ["answer: called", *self._called(functions, ids[SYNTAX.opening], many)]

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        if SYNTAX.opening not in ids:
            return None
        other = anything_but(r".*\[TOOL_CALLS\]")
        return ["answer: TEXT called?", other, *self._called(functions, ids[SYNTAX.opening], many)]

    def _called(self, functions: Sequence[Function], opening: int, many: bool) -> list[str]:
        calls = 'call (", " call)*' if many else "call"
        return [
            f'called: {token(opening)} " "? "[" {calls} "]"',
            *one_of(functions, lambda name: (literal(f'{{"name": {literal(name)}, "arguments": '), '"}"')),
        ]

    def new_id(self) -> str:
        return "".join(secrets.choice(ID_CHARS) for _ in range(9))
