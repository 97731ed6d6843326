"""`<tool_call>` and a function with its parameters, each between tags of its own: Qwen3-Coder.

    <tool_call>
    <function=weather>
    <parameter=city>
    Beijing
    </parameter>
    </function>
    </tool_call>

Source: the models' chat template, which writes lists and objects as JSON, and all else as a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.form import Function, openai_id
from llmserve.server.answers.tools.tagged_calls import TaggedCalls
from llmserve.tokenizer import ChatPrompt

BEGIN = re.compile(r"\s*<function=([^>\s]+)>\s*")
ARGUMENT = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
END = re.compile(r"</function>\s*")


class Qwen3Coder:
    """See `form.ToolForm`."""

    name = "qwen3_coder"
    marks = ()

    def is_of(self, chat: ChatPrompt) -> bool:
        return "<function=" in chat.template and "<parameter=" in chat.template

    def parser(self, functions: Sequence[Function]) -> Parser:
        return TaggedCalls(_read, functions)

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return None

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        return None

    def new_id(self) -> str:
        return openai_id()


def _read(text: str) -> tuple[str, dict[str, str]] | None:
    begin = BEGIN.match(text)
    if begin is None:
        return None
    arguments, at = {}, begin.end()
    while argument := ARGUMENT.match(text, at):
        arguments[argument[1]] = argument[2]
        at = argument.end()
    return (begin[1], arguments) if END.fullmatch(text, at) else None
