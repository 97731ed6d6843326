"""What a form of reasoning has to say for itself: a model's way to think before it answers."""

from __future__ import annotations

from typing import Protocol

from llmserve.server.answers.parts import Parser
from llmserve.tokenizer import ChatPrompt


class ReasoningParser(Parser, Protocol):
    @property
    def chars(self) -> float:
        """How many of the text's first characters are reasoning with its markers; without end while it goes on."""
        ...


class ReasoningForm(Protocol):
    """A file of this package has one, and `FORMS` a line for it."""

    @property
    def name(self) -> str:
        """What `--reasoning-parser` calls it."""
        ...

    def is_of(self, chat: ChatPrompt) -> bool:
        """Whether a model that is asked so thinks so."""
        ...

    def parser(self, prompt: str) -> ReasoningParser:
        """For an answer to a prompt that ends with this text: some prompts begin the reasoning, or forbid it."""
        ...

    def rules(self, prompt: str) -> list[str] | None:
        """Rules of a grammar (llguidance's Lark) by which `reasoning` is what comes before such an answer.

        None: nothing does.
        """
        ...
