"""Chat prompts of Jinja templates: the checkpoint's own, or one that the server was given.

Special tokens are in the template's text by name, so a message that has such a name in it has the token: that is how
these models' templates are meant and used everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmserve.errors import RequestError
from llmserve.tokenizer.chat_prompt import Conversation, Part, Text
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.files import DEFAULT_TEMPLATE, TOOL_TEMPLATE

OWN_VARIABLES = {"messages", "tools", "documents", "add_generation_prompt"}


class TemplatePrompt:
    """See `chat_prompt.ChatPrompt`. Of templates by name, the one for tools is used where there are tools."""

    stop_ids: frozenset[int] = frozenset()

    def __init__(self, templates: Mapping[str, ChatTemplate], told: str) -> None:
        self._default = templates[DEFAULT_TEMPLATE]
        self._with_tools = templates.get(TOOL_TEMPLATE, self._default)
        self.told = told
        self.template = "\n".join(template.source for template in templates.values())

    def parts(self, conversation: Conversation) -> list[Part]:
        taken = sorted(conversation.variables.keys() & OWN_VARIABLES)
        if taken:
            raise RequestError(
                f"chat_template_kwargs cannot set {taken[0]}; leave it out.", param=f"chat_template_kwargs.{taken[0]}"
            )
        template = self._with_tools if conversation.tools else self._default
        variables: dict[str, Any] = {"tools": conversation.tools or None, "documents": conversation.documents or None}
        if conversation.reasoning_effort is not None:
            variables["reasoning_effort"] = conversation.reasoning_effort
        for name, value in variables.items():
            if value and name not in template.reads:
                raise RequestError(
                    f"{name} cannot be told to this model: {self.told} has no place for it; leave it out, or have the "
                    "server started with a --chat-template that has.",
                    param=name,
                )
        text = template.render(
            conversation.messages,
            add_generation_prompt=conversation.awaits_answer,
            variables={**conversation.variables, **variables},
        )
        return [Text(text, names_are_tokens=True)]
