"""Llama 2's chat: `[INST]` around questions, the system message inside the first, every answered round for itself.

As its authors' code does it: a round is encoded between the tokens of beginning and end, which no message can forge.
The rest of the format is text, so messages that have it in them are refused. There is no default system message.
"""

from __future__ import annotations

from llmserve.errors import RequestError
from llmserve.tokenizer.backend import Backend
from llmserve.tokenizer.chat_prompt import Conversation, Part, Text, only_messages, only_roles

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


class Llama2Prompt:
    """See `chat_prompt.ChatPrompt`."""

    told = "Llama 2's own chat format ([INST] … [/INST])"
    template = ""
    stop_ids: frozenset[int] = frozenset()

    def __init__(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end

    @staticmethod
    def of(backend: Backend) -> Llama2Prompt | None:
        """None where the vocabulary lacks the two tokens."""
        begin, end = backend.token_id("<s>"), backend.token_id("</s>")
        return None if begin is None or end is None else Llama2Prompt(begin, end)

    def parts(self, conversation: Conversation) -> list[Part]:
        only_messages(conversation, self.told)
        only_roles(conversation, self.told, "system", "user", "assistant")
        turns = _turns(conversation)
        parts: list[Part] = []
        for question, answer in zip(turns[:-1:2], turns[1::2], strict=True):
            parts += [self._begin, Text(f"[INST] {question} [/INST] {answer} "), self._end]
        return [*parts, self._begin, Text(f"[INST] {turns[-1]} [/INST]")]


def _turns(conversation: Conversation) -> list[str]:
    """Questions and answers in turn, a question last; the system message is part of the first."""
    contents = [message["content"] for message in conversation.messages]
    for i, content in enumerate(contents):
        if tag := next((tag for tag in TAGS if tag in content), None):
            raise RequestError(
                f"messages.{i}.content has {tag} in it, which means something to Llama 2; leave it out.",
                param=f"messages.{i}.content",
            )
    roles = [message["role"] for message in conversation.messages]
    if roles[:1] == ["system"] and len(roles) > 1:
        contents[:2] = [f"<<SYS>>\n{contents[0]}\n<</SYS>>\n\n{contents[1]}"]
        roles = roles[1:]
    if len(roles) % 2 == 0 or roles != ["assistant" if i % 2 else "user" for i in range(len(roles))]:
        raise RequestError(
            "messages must be questions and answers in turn (user, assistant, user, …), the last a question, with at "
            "most one system message before them: Llama 2 knows no other conversation.",
            param="messages",
        )
    return [content.strip() for content in contents]
