"""What a form of tool calls has to say for itself: a model's way to write them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmserve.server.answers.parts import Parser
from llmserve.tokenizer import ChatPrompt

Function = Mapping[str, Any]
"""`name` and perhaps `parameters`, a JSON schema: a tool as OpenAI describes it."""


class ToolForm(Protocol):
    """A file of this package has one, and `FORMS` a line for it."""

    @property
    def name(self) -> str:
        """What `--tool-call-parser` calls it."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Special tokens that the parser has to see, by name; elsewhere they are no text."""
        ...

    def is_of(self, chat: ChatPrompt) -> bool:
        """Whether a model that is asked so calls tools so."""
        ...

    def parser(self, functions: Sequence[Function]) -> Parser:
        """`functions`: those that may be called."""
        ...

    def calls(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        """Rules of a grammar (llguidance's Lark) by which `answer` calls one of these, or several if `many`, and says
        no more; `ids`: of those of `marks` that are tokens. None: there is no grammar for this form.

        RequestError where there is none for a tool's schema.
        """
        ...

    def answers(self, functions: Sequence[Function], ids: Mapping[str, int], *, many: bool) -> list[str] | None:
        """Likewise, by which `answer` is any in which calls, if there are any, are well formed."""
        ...

    def new_id(self) -> str:
        """An id for a call."""
        ...


def names_of(functions: Sequence[Function]) -> frozenset[str]:
    return frozenset(function["name"] for function in functions)


def openai_id() -> str:
    return f"call_{secrets.token_hex(12)}"
