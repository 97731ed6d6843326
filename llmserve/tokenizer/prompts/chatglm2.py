"""ChatGLM2's chat (`build_prompt`): numbered rounds of question and answer, as one text.

It knows no system message; one is put before the first question, as a part of it.
"""

from __future__ import annotations

from llmserve.errors import RequestError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import Conversation, Part, Text, only_messages, only_roles


class ChatGLM2Prompt:
    """See `chat_prompt.ChatPrompt`."""

    told = "ChatGLM2's own chat format (rounds of 问 and 答)"
    template = ""
    stop_ids: frozenset[int] = frozenset()

    def __init__(self, backend: Backend) -> None:
        self._prefix = backend.prefix_ids

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told)
        only_roles(conversation, self.told, "system", "user", "assistant")
        text, question, rounds = "", "", 0
        for i, message in enumerate(conversation.messages):
            if message["role"] != "assistant":
                question += ("\n\n" if question else "") + message["content"]
                continue
            if not question:
                raise RequestError(
                    f"messages.{i} is an answer without a question, which ChatGLM2's rounds have no place for.",
                    param=f"messages.{i}.role",
                )
            rounds += 1
            text += f"[Round {rounds}]\n\n问：{question}\n\n答：{message['content']}\n\n"
            question = ""
        return [*self._prefix, Text(f"{text}[Round {rounds + 1}]\n\n问：{question}\n\n答：")]
