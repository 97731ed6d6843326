"""Fronts whose model says given texts, and whose template shows what it was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmserve.config import ServerConfig
from llmserve.tokenizer import Tokenizer
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.prompts.template import TemplatePrompt

from .conftest import END, Front, make_backend, manifest, running_front

THINKING = (
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)
HERMES = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}<tool_call>\n"
    "{% for message in messages %}<|start|>{{ message.role }}: {{ message.reasoning_content }} {{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}{{ message.tool_call_id }}\n{% endfor %}"
    "<|start|>assistant:"
)
"""Told of tools and calls as Qwen's is, and recognised as its form."""

LONG = manifest(model=manifest().model.model_copy(update={"max_position": 4000}))


def tokenizer_of(template: str, special: Sequence[str] = ()) -> Tokenizer:
    prompt = TemplatePrompt({"default": ChatTemplate(template, {"eos_token": "<|end|>"})}, "a template")
    backend = make_backend()
    backend.add_special_tokens(list(special))
    return Tokenizer(LibraryBackend(backend), prompt)


@contextmanager
def front_that_says(
    endpoint: str,
    *texts: str,
    template: str = HERMES,
    special: Sequence[str] = (),
    config: ServerConfig = ServerConfig(),  # noqa: B008 (frozen)
) -> Iterator[Front]:
    """One text after the other, request by request, and then again."""
    tokenizer = tokenizer_of(template, special)
    answers: Sequence[list[int]] = [[*tokenizer.encode(text, add_special_tokens=False), END] for text in texts]
    with running_front(
        endpoint,
        tokenizer=tokenizer,
        manifest=LONG,
        config=config,
        script=lambda request: answers[request.id % len(answers)],
        max_model_len=4000,
    ) as front:
        yield front
