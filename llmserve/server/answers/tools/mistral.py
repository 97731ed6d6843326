"""`[TOOL_CALLS]` and a list of JSON objects: Mistral 7B v0.3, Nemo, Mixtral 8x22B.

Source: the models' chat templates, which also want ids of nine letters and digits.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.form import Function
from llmserve.server.answers.tools.json_calls import JsonCalls, Syntax
from llmserve.tokenizer import ChatPrompt

SYNTAX = Syntax(opening="[TOOL_CALLS]", lead="[", between=",", closing="]")
ID_CHARS = string.ascii_letters + string.digits


class Mistral:
    """See `form.ToolForm`."""

    name = "mistral"
    marks = (SYNTAX.opening,)

    def is_of(self, chat: ChatPrompt) -> bool:
        """Later models write name and arguments without JSON around them."""
        return SYNTAX.opening in chat.template and "[ARGS]" not in chat.template

    def parser(self, names: frozenset[str]) -> Parser:
        return JsonCalls(SYNTAX, names)

    def calls(self, functions: Sequence[Function], *, many: bool) -> list[str] | None:
        return None

    def answers(self, functions: Sequence[Function], *, many: bool) -> list[str] | None:
        return None

    def new_id(self) -> str:
        return "".join(secrets.choice(ID_CHARS) for _ in range(9))
