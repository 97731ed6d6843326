"""The tool's name on a line, then a line of Python that calls it: ChatGLM3.

    weather
    ```python
    tool_call(city='Beijing')
    ```

Source: `process_response` of its original code, which evaluates it. Here it is only read, as literals, and passed on as
JSON once it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llmserve.server.answers.parts import Parser
from llmserve.server.answers.tools.choices import anything_but, one_of, pattern
from llmserve.server.answers.tools.first_line import AGAIN, FirstLineCalls
from llmserve.server.answers.tools.form import Function, names_of, openai_id
from llmserve.server.answers.tools.python_calls import ANY, keyword_rules, read_keywords
from llmserve.server.answers.tools.written import as_json
from llmserve.tokenizer import ChatPrompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt

BEGIN = re.compile(r"\s*(?:```\w*\s*)?(?=tool_call\()")
FENCE = "```"


class ChatGLM3:
    """See `form.ToolForm`."""

    name = "chatglm3"
    marks = (AGAIN,)

    def is_of(self, chat: ChatPrompt) -> bool:
        return isinstance(chat, ChatGLM3Prompt)

    def parser(self, functions: Sequence[Function]) -> Parser:
        return ChatGLM3Calls(names_of(functions))

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        """One: after a call it gives the word to somebody else."""
        return ["answer: call", *self._call(functions)]

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        names = "|".join(pattern(function["name"]) for function in functions)
        other = anything_but(rf"\s*({names})\s*(```\w*\s*)?tool_call\(")
        return ["answer: call | TEXT", other, *self._call(functions)]

    def _call(self, functions: Sequence[Function]) -> list[str]:
        """Up to the bracket it is one terminal, which is told from other text at its end. Where its vocabulary begins
        texts with a space, the model writes one before the name, and before the code."""
        rules = one_of(
            functions,
            lambda name: (rf"/ ?{pattern(name)}\n ?```python\ntool_call\(/", '")\\n```"'),
            lambda function, rule: keyword_rules(
                function.get("parameters") or {}, rule, f"tools: parameters of {function['name']:.100}"
            ),
        )
        return [*rules, *ANY]

    def new_id(self) -> str:
        return openai_id()


class ChatGLM3Calls(FirstLineCalls):
    def _in_call(self) -> bool:
        call = self._up_to(AGAIN)
        if call is None:
            return False
        arguments = _arguments(call)
        if arguments is None:
            return self._no_call()
        self._begin(self._name)
        self._add_arguments(arguments)
        self._text = self._text[len(call) :]
        self._state = self._in_content
        return True


def _arguments(text: str) -> str | None:
    """As JSON; None where it is no call with literals by name."""
    begin = BEGIN.match(text)
    if begin is None:
        return None
    call = text[begin.end() :].rstrip().removesuffix(FENCE).rstrip()
    arguments = read_keywords(call) if call.endswith(")") else None
    return None if arguments is None else as_json(arguments)
