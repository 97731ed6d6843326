"""A conversation as it is asked of the model: its prompt, what its answer has to be, and how that is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmserve.errors import RequestError
from llmserve.server.answers.choose import Forms
from llmserve.server.answers.reader import AnswerReader
from llmserve.server.answers.reasoning.form import ReasoningForm
from llmserve.server.answers.tools.form import ToolForm, openai_id
from llmserve.server.generation import Job
from llmserve.server.protocol.tools import ToolUse
from llmserve.server.serving import Serving
from llmserve.tokenizer import Conversation, Part, Text


@dataclass(frozen=True)
class Reading:
    """How the answers to one prompt are read. `end_of_prompt` is its last text."""

    tools: ToolForm | None = None
    use: ToolUse | None = None
    reasoning: ReasoningForm | None = None
    keeps_reasoning: bool = True
    end_of_prompt: str = ""

    @property
    def finds_calls(self) -> bool:
        return self.tools is not None and self.use is not None

    @property
    def finds_reasoning(self) -> bool:
        return self.reasoning is not None

    @property
    def marks(self) -> tuple[str, ...]:
        """Special tokens that have to be in the text, by name."""
        return self.tools.marks if self.tools and self.use else ()

    @property
    def new_call_id(self) -> Callable[[], str]:
        return self.tools.new_id if self.tools else openai_id

    def reader(self) -> AnswerReader:
        """One answer's."""
        return AnswerReader(
            self.reasoning.parser(self.end_of_prompt) if self.reasoning else None,
            self.tools.parser(self.use.names) if self.tools and self.use else None,
            one_call=self.use is not None and self.use.one_call,
            keeps_reasoning=self.keeps_reasoning,
        )

    def grammar(self) -> str | None:
        """For `SamplingParams`. Raises RequestError where the model's form of tool calls has none."""
        rules = None if self.use is None else _rules(self.tools, self.use)
        if rules is None:
            return None
        reasoning = self.reasoning.rules(self.end_of_prompt) if self.reasoning else None
        start = ["start: answer"] if reasoning is None else ["start: reasoning answer", *reasoning]
        return json.dumps({"grammars": [{"lark_grammar": "\n".join([*start, *rules])}]}, ensure_ascii=False)


@dataclass(frozen=True)
class Asked:
    prompt: tuple[int, ...]
    reading: Reading
    grammar: str | None
    shown: frozenset[int]  # special tokens that are text in the answer

    def readable(self, job: Job) -> Job:
        """With what the reading needs of the answer: those, and tokens where it is counted which are reasoning."""
        return replace(job, shown=self.shown, wants_tokens=job.wants_tokens or self.reading.finds_reasoning)


async def ask(
    serving: Serving, conversation: Conversation, use: ToolUse | None, *, keeps_reasoning: bool, param: str
) -> Asked:
    """`param` is what the conversation came in. Raises RequestError where the model cannot be asked so."""
    tokenizer = serving.need_tokenizer(param)
    parts = tokenizer.chat.parts(conversation)
    reading = _reading(serving.forms, use, keeps_reasoning, parts)
    grammar = reading.grammar()
    prompt = await serving.encode_parts(parts, param=param)
    return Asked(prompt, reading, grammar, tokenizer.token_ids(reading.marks))


def _reading(forms: Forms, use: ToolUse | None, keeps_reasoning: bool, parts: Sequence[Part]) -> Reading:
    last = parts[-1] if parts else ""
    end = last.text if isinstance(last, Text) else ""
    return Reading(forms.tools, use, forms.reasoning, keeps_reasoning, end)


def _rules(form: ToolForm | None, use: ToolUse) -> list[str] | None:
    """By which `answer` is what the request wants to hear; None where that is up to the model."""
    if use.required:
        rules = form.calls(use.required, many=not use.one_call) if form else None
        if rules is None:
            raise RequestError(
                "tool_choice can only be 'none' or 'auto' for this model: there is no grammar for its way to call "
                "tools.",
                param="tool_choice",
            )
        return rules
    if not use.is_strict:
        return None
    rules = form.answers(use.functions, many=not use.one_call) if form else None
    if rules is None:
        raise RequestError(
            "tools can only be strict for this model where tool_choice is 'required' or names one: there is no grammar "
            "for answers that may call tools or not. Choose so, or leave strict out.",
            param="tools",
        )
    return rules
