"""The stated default for models of which nothing says how they chat: their text, speaker by speaker.

    You are helpful.

    User: Hello
    Assistant: Hi!
    User: How are you?
    Assistant:

with the tokens before it that the model's every text begins with. A model that was taught another way answers badly;
a `--chat-template` helps it.
"""

from __future__ import annotations

from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import Conversation, Part, Text, only_messages, only_roles

SPEAKERS = {"user": "User: ", "assistant": "Assistant: "}


class PlainPrompt:
    """See `chat_prompt.ChatPrompt`."""

    told = "llmserve's default, lines of `User: …` and `Assistant: …`"
    template = ""
    stop_ids: frozenset[int] = frozenset()

    def __init__(self, backend: Backend) -> None:
        self._prefix = backend.prefix_ids
        ends = (backend.token_id(name) for name in ("<s>", "</s>"))  # pieces like any other of some vocabularies
        self._marks = frozenset(id for id in ends if id is not None)

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told)
        only_roles(conversation, self.told, "system", *SPEAKERS)
        lines = [
            f"{message['content']}\n\n"
            if message["role"] == "system"
            else f"{SPEAKERS[message['role']]}{message['content']}\n"
            for message in conversation.messages
        ]
        return [*self._prefix, Text("".join(lines) + SPEAKERS["assistant"].rstrip(), must_not_become=self._marks)]
