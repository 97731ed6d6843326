"""Qwen v1's chat (`make_context`): ChatML, put together from tokens, so that no message can forge another.

The original drops the oldest turns of a long conversation; here it is refused like every prompt that is too long, and
the client decides what to leave out. The base models' format ("raw") is the question alone: those have no chat.
"""

from __future__ import annotations

from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import Conversation, Part, Text, only_messages, only_roles

SYSTEM = "You are a helpful assistant."
"""What the original's `chat` says where nobody else does."""


class Qwen1Prompt:
    """See `chat_prompt.ChatPrompt`."""

    told = "Qwen's own chat format (ChatML)"
    template = ""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self.stop_ids = frozenset({start, end})

    @staticmethod
    def of(backend: Backend) -> Qwen1Prompt | None:
        """None where the vocabulary lacks the two tokens."""
        start, end = backend.token_id("<|im_start|>"), backend.token_id("<|im_end|>")
        return None if start is None or end is None else Qwen1Prompt(start, end)

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told)
        only_roles(conversation, self.told, "system", "user", "assistant")
        turns = [(message["role"], message["content"]) for message in conversation.messages]
        if not turns or turns[0][0] != "system":
            turns.insert(0, ("system", SYSTEM))
        line = Text("\n")
        parts: list[Part] = []
        for role, content in turns:
            parts += [self._start, Text(role), line, Text(content), self._end, line]
        return [*parts, self._start, Text("assistant"), line]
