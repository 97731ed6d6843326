"""`<tool_call>`, the tool's name, and its arguments as keys and values between tags: GLM-4.5, 4.6.

    <tool_call>weather
    <arg_key>city</arg_key>
    <arg_value>Beijing</arg_value>
    </tool_call>

Source: the models' chat templates, which write texts as they are, and all else as JSON.
"""

from __future__ import annotations

import re

from llmserve.server.answers.tools.tagged_calls import TaggedForm

NAME = re.compile(r"\s*([^\s<]+)\s*")
ARGUMENT = re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)


def _read(text: str) -> tuple[str, dict[str, str]] | None:
    name = NAME.match(text)
    if name is None:
        return None
    arguments, at = {}, name.end()
    while argument := ARGUMENT.match(text, at):
        arguments[argument[1].strip()] = argument[2]
        at = argument.end()
    return (name[1], arguments) if at == len(text) else None


GLM45 = TaggedForm("glm45", ("<arg_key>",), _read)
