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

from llmserve.server.answers.tools.tagged_calls import TaggedForm

BEGIN = re.compile(r"\s*<function=([^>\s]+)>\s*")
ARGUMENT = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
END = re.compile(r"</function>\s*")


def _read(text: str) -> tuple[str, dict[str, str]] | None:
    begin = BEGIN.match(text)
    if begin is None:
        return None
    arguments, at = {}, begin.end()
    while argument := ARGUMENT.match(text, at):
        arguments[argument[1]] = argument[2]
        at = argument.end()
    return (begin[1], arguments) if END.fullmatch(text, at) else None


QWEN3_CODER = TaggedForm("qwen3_coder", ("<function=", "<parameter="), _read)
