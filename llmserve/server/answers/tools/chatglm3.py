"""The tool's name on a line, then a line of Python that calls it: ChatGLM3.

    weather
    ```python
    tool_call(city='Beijing')
    ```

Source: `process_response` of its original code, which evaluates it. Here it is only read, as literals, and passed on as
JSON once it is whole.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.first_line import AGAIN, FirstLineCalls
from llmserve.server.answers.tools.form import Function, openai_id
from llmserve.tokenizer import ChatPrompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt

CALL = re.compile(r"\s*(?:```\w*\s*)?(tool_call\(.*\))\s*(?:```)?\s*", re.DOTALL)


class ChatGLM3:
    """See `form.ToolForm`."""

    name = "chatglm3"
    marks = (AGAIN,)

    def is_of(self, chat: ChatPrompt) -> bool:
        return isinstance(chat, ChatGLM3Prompt)

    def parser(self, names: frozenset[str]) -> Parser:
        return ChatGLM3Calls(names)

    def calls(self, functions: Sequence[Function], *, many: bool) -> list[str] | None:
        return None

    def answers(self, functions: Sequence[Function], *, many: bool) -> list[str] | None:
        return None

    def new_id(self) -> str:
        return openai_id()


class ChatGLM3Calls(FirstLineCalls):
    def _in_call(self) -> bool:
        call, again, _ = self._text.partition(AGAIN)
        if not again and not self._ended:
            return False
        arguments = _arguments(call)
        if arguments is None:
            return self._no_call()
        self._begin()
        self._add_arguments(arguments)
        self._text = self._text[len(call) :]
        self._state = self._in_content
        return True


def _arguments(text: str) -> str | None:
    """As JSON; None where it is no call with literals by name."""
    match = CALL.fullmatch(text)
    try:
        call = ast.parse(match[1], mode="eval").body if match else None
        if not isinstance(call, ast.Call) or call.args or not all(each.arg for each in call.keywords):
            return None
        return json.dumps({each.arg: ast.literal_eval(each.value) for each in call.keywords}, ensure_ascii=False)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None
