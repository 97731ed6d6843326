"""A conversation as it is asked of the model: its prompt, what its answer has to be, and how that is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from starlette.types import Receive

from llmserve.errors import RequestError
from llmserve.server.answers.reader import AnswerReader
from llmserve.server.answers.reasoning.form import ReasoningForm
from llmserve.server.answers.tools.form import ToolForm, openai_id
from llmserve.server.deadline import Deadline
from llmserve.server.generation import Job
from llmserve.server.grammars import lark
from llmserve.server.protocol.structured import Form
from llmserve.server.protocol.tools import ToolUse
from llmserve.server.serving import LONG_TEXT, Serving
from llmserve.server.streaming import encode
from llmserve.tokenizer import Conversation, Part, Text

MANY_MESSAGES = 256


@dataclass(frozen=True)
class Reading:
    """How the answers to one prompt are read. `end_of_prompt` is its last text."""

    tools: ToolForm | None = None
    use: ToolUse | None = None
    reasoning: ReasoningForm | None = None
    keeps_reasoning: bool = True
    end_of_prompt: str = ""
    mark_ids: Mapping[str, int] = field(default_factory=dict)  # of the special tokens that have to be in the text

    @property
    def finds_calls(self) -> bool:
        return self.tools is not None and self.use is not None

    @property
    def finds_reasoning(self) -> bool:
        return self.reasoning is not None

    @property
    def new_call_id(self) -> Callable[[], str]:
        return self.tools.new_id if self.tools else openai_id

    def reader(self) -> AnswerReader:
        """One answer's."""
        return AnswerReader(
            self.reasoning.parser(self.end_of_prompt) if self.reasoning else None,
            self.tools.parser(self.use.functions) if self.tools and self.use else None,
            one_call=self.use is not None and self.use.one_call,
            keeps_reasoning=self.keeps_reasoning,
        )

    def form(self, wanted: Form | None) -> Form | None:
        """What the answer must be: calls as the request wants them, or what else it says of the answer, `wanted`.

        Reasoning comes before either. Raises RequestError where there is no grammar for the model's calls.
        """
        called = None if self.use is None else _called(self.tools, self.use, self.mark_ids, wanted)
        if called is None and wanted is None:
            return None
        reasoning = self.reasoning.rules(self.end_of_prompt) if self.reasoning else None
        if called is None and reasoning is None:
            return wanted
        answers, others = (["answer"] if called else []), []
        if wanted is not None and not (self.use and self.use.required):
            first, *others = json.loads(wanted.grammar)["grammars"]
            answers, others = [*answers, "@wanted"], [{**first, "name": "wanted"}, *others]
        start = f"start: {'reasoning ' if reasoning else ''}({' | '.join(answers)})"
        rules = [start, *(reasoning or ()), *(called.rules if called else ())]
        grammars = [*json.loads(lark("\n".join(rules)))["grammars"], *others]
        return Form(json.dumps({"grammars": grammars}), called.param if called else wanted.param if wanted else "")


@dataclass(frozen=True)
class Asked:
    prompt: tuple[int, ...]
    reading: Reading
    grammar: str | None
    shown: frozenset[int]  # special tokens that are text in the answer
    deadline: Deadline

    def readable(self, job: Job) -> Job:
        """With what the reading needs of the answer: those, and tokens where it is counted which are reasoning. It has
        the time that is left."""
        wants_tokens = job.wants_tokens or self.reading.finds_reasoning
        return replace(job, shown=self.shown, wants_tokens=wants_tokens, timeout=self.deadline.left)


async def ask(
    serving: Serving,
    conversation: Conversation,
    use: ToolUse | None,
    wanted: Form | None,
    *,
    keeps_reasoning: bool,
    param: str,
    timeout: float | None,
    receive: Receive,
    cut: bool = False,
) -> Asked:
    """`wanted` is the form that the answer must have; `param` is what the conversation came in; `timeout`: seconds that
    the whole call may take; `receive` as in `Serving.grammar`; `cut` as in `Serving.encode`.

    Raises RequestError where the model cannot be asked so, TooLateError, and what `Serving.grammar` does.
    """
    deadline = Deadline(timeout)
    tokenizer, forms = serving.need_tokenizer(param), serving.forms
    ids = tokenizer.token_ids(forms.tools.marks if forms.tools and use else ())

    def put() -> tuple[list[Part], Reading, Form | None]:
        parts = tokenizer.chat.parts(conversation)
        last = parts[-1] if parts else ""
        end = last.text if isinstance(last, Text) else ""
        reading = Reading(forms.tools, use, forms.reasoning, keeps_reasoning, end, ids)
        return parts, reading, reading.form(wanted)

    parts, reading, form = await asyncio.to_thread(put) if _is_long(conversation) else put()
    grammar = await serving.grammar(form, deadline, receive)
    prompt = await serving.encode_parts(parts, param=param, cut=cut)
    return Asked(prompt, reading, grammar, frozenset(ids.values()), deadline)


def _is_long(conversation: Conversation) -> bool:
    """Whether putting it as a template does, and making a grammar of its tools, would hold up other requests."""
    tools = conversation.tools
    return len(conversation.messages) > MANY_MESSAGES or (tools is not None and len(encode(tools)) > LONG_TEXT)


class _Called(NamedTuple):
    """Rules by which `answer` calls tools as a request wants it, and the parameter that says so."""

    rules: list[str]
    param: str


def _called(form: ToolForm | None, use: ToolUse, ids: Mapping[str, int], wanted: Form | None) -> _Called | None:
    """None where nothing is to be kept to: the model decides, and its calls are as it writes them."""
    many = not use.one_call
    if use.required:
        rules = form.calls(use.required, ids, many=many) if form else None
        if rules is None:
            raise RequestError(
                "tool_choice can only be 'none' or 'auto' for this model: there is no grammar for its calls of tools.",
                param="tool_choice",
            )
        return _Called(rules, "tool_choice")
    if wanted is not None:
        rules = form.calls(use.functions, ids, many=many) if form else None
        if rules is None:
            raise RequestError(
                f"{wanted.param} is not possible with tools for this model: there is no grammar for its calls of "
                "tools. Leave one of them out, or choose tool_choice 'none'.",
                param=wanted.param,
            )
        return _Called(rules, "tools")
    if not use.is_strict:
        return None
    rules = form.answers(use.functions, ids, many=many) if form else None
    if rules is None:
        raise RequestError(
            "tools can only be strict for this model where tool_choice is 'required' or names one: there is no grammar "
            "for answers that may call tools or not. Choose so, or leave strict out.",
            param="tools",
        )
    return _Called(rules, "tools")
