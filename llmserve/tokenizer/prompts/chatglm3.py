"""ChatGLM3's chat (`build_chat_input`): a token for each role, then metadata and content encoded as texts.

Tools are told in the system message, as JSON. A tool call is an answer whose metadata is the tool's name and whose
content is a line of Python that calls it; a tool's result is an observation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llmserve.errors import EngineDirError, RequestError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import Conversation, Message, Part, Text, only_messages, only_roles

ROLES = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
    "function": "<|observation|>",
}
TOOLS = "Answer the following questions as best as you can. You have access to the following tools:"
"""What its authors put before tools where there is no system message."""


class ChatGLM3Prompt:
    """See `chat_prompt.ChatPrompt`. The metadata of an answer may be given, as `metadata`."""

    told = "ChatGLM3's own chat format (a token for each role)"
    template = ""

    def __init__(self, backend: Backend) -> None:
        self._prefix = backend.prefix_ids
        self._roles = {role: _known(backend, name) for role, name in ROLES.items()}
        # The model ends its answers by giving the word to somebody else.
        self.stop_ids = frozenset({self._roles["user"], self._roles["tool"]})

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told, tools=True)
        only_roles(conversation, self.told, *ROLES)
        parts: list[Part] = [*self._prefix]
        for message in _with_tools(conversation):
            for metadata, content in _turns(message):
                parts += [self._roles[message["role"]], Text(f"{metadata}\n"), Text(content)]
        return [*parts, self._roles["assistant"]]


def _with_tools(conversation: Conversation) -> Sequence[Message]:
    """The messages, the tools told at the end of the first system message; where there is none, one is put first."""
    if not conversation.tools:
        return conversation.messages
    told = _json([tool.get("function", tool) for tool in conversation.tools])
    messages = list(conversation.messages)
    at = next((i for i, message in enumerate(messages) if message["role"] == "system"), None)
    if at is None:
        messages.insert(0, {"role": "system", "content": TOOLS})
        at = 0
    messages[at] = {**messages[at], "content": f"{messages[at]['content']}\n{told}"}
    return messages


def _turns(message: Message) -> Iterator[tuple[str, str]]:
    """Metadata and content of what one message becomes: calls of tools are answers of their own, behind its text."""
    calls = message.get("tool_calls") or []
    if message["content"] or not calls:
        yield message.get("metadata", ""), message["content"]
    for call in calls:
        function = call["function"]
        name, arguments = function.get("name"), function.get("arguments") or {}
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise RequestError(
                "messages has a tool call without a name, or with arguments that are no object.", param="messages"
            )
        told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        yield name, f"```python\ntool_call({told})\n```"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=4)
    except RecursionError:
        raise RequestError("tools are nested too deeply to be told to the model.", param="tools") from None


def _known(backend: Backend, name: str) -> int:
    id = backend.token_id(name)
    if id is None:
        raise EngineDirError(f"The tokenizer has no token {name}, which ChatGLM3's prompts need; check the checkpoint.")
    return id
