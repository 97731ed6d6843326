"""Which forms a served model has: told by the way it is asked, or by whoever starts the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from llmserve.errors import ConfigError
from llmserve.server.answers import reasoning, tools
from llmserve.server.answers.reasoning.form import ReasoningForm
from llmserve.server.answers.tools.form import ToolForm
from llmserve.tokenizer import ChatPrompt

NONE = "none"


@dataclass(frozen=True)
class Forms:
    """None: what there is of it stays in an answer's content."""

    tools: ToolForm | None = None
    reasoning: ReasoningForm | None = None

    @property
    def told(self) -> str:
        """For people: a server logs it at start."""
        told = [f"{what} {form.name if form else 'left in the text'}"
                for what, form in (("tool calls:", self.tools), ("reasoning:", self.reasoning))]  # fmt: skip
        return ", ".join(told)


def choose_forms(chat: ChatPrompt | None, tool_call_parser: str | None, reasoning_parser: str | None) -> Forms:
    """`chat` is None where there is no tokenizer. Raises ConfigError for a name that no form has."""
    return Forms(
        _chosen(tools.FORMS, chat, tool_call_parser, "--tool-call-parser"),
        _chosen(reasoning.FORMS, chat, reasoning_parser, "--reasoning-parser"),
    )


class _Form(Protocol):
    @property
    def name(self) -> str: ...

    def is_of(self, chat: ChatPrompt) -> bool: ...


Form = TypeVar("Form", bound=_Form)


def _chosen(forms: Sequence[Form], chat: ChatPrompt | None, name: str | None, flag: str) -> Form | None:
    by_name = {form.name: form for form in forms}
    if name is not None and name != NONE and name not in by_name:
        raise ConfigError(f"{flag} {name} is not known; choose one of {', '.join([*by_name, NONE])}.")
    if chat is None or name == NONE:
        return None
    return by_name[name] if name else next((form for form in forms if form.is_of(chat)), None)
