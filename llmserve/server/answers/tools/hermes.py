"""`<tool_call>` and JSON, a pair of markers for each call: Qwen2.5, Qwen3, QwQ, Hermes.

Source: the models' chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.choices import one_of
from llmserve.server.answers.tools.form import Function, names_of, openai_id
from llmserve.server.answers.tools.json_calls import JsonCalls, Syntax
from llmserve.server.grammars import literal
from llmserve.tokenizer import ChatPrompt

SYNTAX = Syntax(opening="<tool_call>", closing="</tool_call>")


class Hermes:
    """See `form.ToolForm`."""

    name = "hermes"
    marks = ()

    def is_of(self, chat: ChatPrompt) -> bool:
        """Others put something else between the same markers: GLM-4.5 keys and values, Qwen3-Coder XML."""
        template = chat.template
        return SYNTAX.opening in template and "<arg_key>" not in template and "<function=" not in template

    def parser(self, functions: Sequence[Function]) -> Parser:
        return JsonCalls(SYNTAX, names_of(functions))

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return [r'answer: call ("\n" call)*' if many else "answer: call", *self._call(functions)]

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return [
            f"answer: called{'*' if many else '?'} TEXT",
            "called: opening call",
            f"opening[lazy]: TEXT {literal(SYNTAX.opening)}",  # the first that comes ends it
            "TEXT: /(?s:.*)/",
            *self._call(functions, opening=""),
        ]

    def new_id(self) -> str:
        return openai_id()

    def _call(self, functions: Sequence[Function], opening: str = SYNTAX.opening) -> list[str]:
        return one_of(
            functions,
            lambda name: (
                literal(f'{opening}\n{{"name": {literal(name)}, "arguments": '),
                literal(f"}}\n{SYNTAX.closing}"),
            ),
        )
