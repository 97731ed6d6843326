"""Baichuan 2's chat (`build_chat_input`): two reserved tokens, which generation_config.json names, before each speaker.

The system message stands before everything. As with Qwen v1, a conversation that is too long is refused where the
original drops its beginning.
"""

from __future__ import annotations

from llmserve.tokenizer.chat_prompt import Conversation, Part, Text, only_messages, only_roles
from llmserve.tokenizer.files import TokenizerFiles


class BaichuanPrompt:
    """See `chat_prompt.ChatPrompt`."""

    told = "Baichuan's own chat format (a token for each speaker)"
    template = ""

    def __init__(self, user: int, assistant: int) -> None:
        self._tokens = {"user": user, "assistant": assistant}
        self.stop_ids: frozenset[int] = frozenset()

    @staticmethod
    def of(files: TokenizerFiles) -> BaichuanPrompt | None:
        """None for a base model, whose generation_config.json names no such tokens."""
        user, assistant = (files.generation_config.get(f"{role}_token_id") for role in ("user", "assistant"))
        return BaichuanPrompt(user, assistant) if type(user) is int and type(assistant) is int else None

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told)
        only_roles(conversation, self.told, "system", *self._tokens)
        parts: list[Part] = []
        for message in conversation.messages:
            parts += [self._tokens[message["role"]]] if message["role"] in self._tokens else []
            parts.append(Text(message["content"], must_not_become=frozenset(self._tokens.values())))
        return [*parts, self._tokens["assistant"]]
