"""What a conversation becomes before a model reads it: a prompt in parts, each a token or a text to be encoded.

A template writes one text; formats that were never text (Qwen v1's, ChatGLM3's, Llama 2's) are tokens with texts
between them. Both are a list of parts, so whoever encodes them need not know which it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmserve.errors import RequestError

Message = Mapping[str, Any]
"""`role` and `content` (text), perhaps `tool_calls` (arguments parsed), `name`, `tool_call_id`, `reasoning_content`."""


@dataclass(frozen=True, slots=True)
class Text:
    """Each is encoded for itself. `names_are_tokens`: special tokens' names in it are those tokens; a template's are.

    Without that nothing that a text says becomes a special token. Some vocabularies have such tokens among their
    ordinary pieces, so that a text can spell them: with those that it `must_not_become` it is refused.
    """

    text: str
    names_are_tokens: bool = False
    must_not_become: frozenset[int] = field(default=frozenset(), compare=False)


Part = int | Text


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat request says. `tools` and `documents` as OpenAI's and Hugging Face's APIs give them; None: none.

    `variables` are for a template alone, by name (`chat_template_kwargs`), and so is `reasoning_effort`.
    `awaits_answer`: the prompt ends where an answer begins; else behind the last message.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    reasoning_effort: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    awaits_answer: bool = True


class ChatPrompt(Protocol):
    """A model's way to put conversations."""

    @property
    def told(self) -> str:
        """What it is, for people: a server logs it at start."""
        ...

    @property
    def template(self) -> str:
        """The Jinja source, in which it shows how a model answers; nothing where prompts are not a template's."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer besides those of generation_config.json, because the original's chat says so."""
        ...

    def parts(self, conversation: Conversation) -> list[Part]:
        """Raises RequestError where the conversation cannot be put so."""
        ...


def only_messages(conversation: Conversation, told: str, *, tools: bool = False) -> None:
    """For formats that begin an answer, without variables, documents and (unless `tools`) tools. Else RequestError."""
    for param, given in (
        ("tools", conversation.tools and not tools),
        ("documents", conversation.documents),
        ("chat_template_kwargs", conversation.variables),
        ("reasoning_effort", conversation.reasoning_effort),
    ):
        if given:
            raise RequestError(
                f"{param} cannot be told to this model: its prompts are {told}; leave it out, or have the server "
                "started with a --chat-template that knows it.",
                param=param,
            )
    if not conversation.awaits_answer:
        raise RequestError(
            f"add_generation_prompt cannot be false for this model: its prompts are {told}, which ends where an answer "
            "begins; leave it out.",
            param="add_generation_prompt",
        )


def only_roles(conversation: Conversation, told: str, *roles: str) -> None:
    """RequestError at the first message of another role, and at a tool call where `tool` is none of them."""
    for i, message in enumerate(conversation.messages):
        if message["role"] not in roles or (message.get("tool_calls") and "tool" not in roles):
            named = "tool_calls" if message["role"] in roles else "role"
            raise RequestError(
                f"messages.{i}.{named} cannot be told to this model: its prompts are {told}, which has "
                f"{', '.join(roles)}.",
                param=f"messages.{i}.{named}",
            )
