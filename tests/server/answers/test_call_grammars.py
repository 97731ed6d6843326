"""Grammars of tool calls, as the engine follows them: what is allowed, its form reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmserve.errors import RequestError
from llmserve.grammar import Grammar, Vocabulary
from llmserve.server.answers.parts import Answer
from llmserve.server.answers.reasoning.think import Think
from llmserve.server.answers.tools import FORMS
from llmserve.server.asked import Reading
from llmserve.server.protocol.structured import checked_response_format
from llmserve.server.protocol.tools import NamedTool, ToolChoice, tool_use

from ..conftest import END
from ..saying import HERMES, tokenizer_of

BY_NAME = {form.name: form for form in FORMS}
TOKENIZER = tokenizer_of(HERMES, ["[TOOL_CALLS]", "<|assistant|>"])
VOCABULARY = Vocabulary.of(TOKENIZER, TOKENIZER.vocab_size)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "时间"}},
]  # fmt: skip
STRICT = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]  # type: ignore[dict-item]
OBJECT = checked_response_format({"type": "json_object"})


def reading(form: str, choice: ToolChoice | None, *, parallel: bool = True, prompt: str | None = None) -> Reading:
    tools = TOOLS if choice else STRICT
    use = tool_use(tools, choice, parallel)
    marks = TOKENIZER.token_ids(BY_NAME[form].marks)
    return Reading(BY_NAME[form], use, None if prompt is None else Think(), end_of_prompt=prompt or "", mark_ids=marks)


def allows(grammar: Grammar, text: str) -> bool:
    matcher = grammar.matcher()
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        mask = matcher.allowed([END])
        if not mask[token >> 3] >> (token & 7) & 1:
            return False
        matcher.advance(token)
    return bool(matcher.allowed([END])[END >> 3] >> (END & 7) & 1)


def grammar_of(reading: Reading, wanted: Any = None) -> Grammar:
    form = reading.form(wanted)
    assert form is not None
    return Grammar(form.grammar, VOCABULARY)


def weather(form: str, arguments: str) -> str:
    if form == "chatglm3" and arguments.startswith("{"):
        arguments = ", ".join(f"{k}={v!r}" for k, v in json.loads(arguments).items())
    return {
        "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>',
        "llama3": f'{{"name": "weather", "parameters": {arguments}}}',
        "glm4": f"weather\n{arguments}",
        "mistral": f'[TOOL_CALLS] [{{"name": "weather", "arguments": {arguments}}}]',
        "chatglm3": f" weather\n ```python\ntool_call({arguments})\n```",
    }[form]


def several(form: str, arguments: str) -> str:
    one = weather(form, arguments)
    if form == "mistral":
        return one.replace("}]", f"}}, {one.partition('[{')[2].join(['{', ''])}")
    return {"hermes": "\n", "llama3": "; "}[form].join([one, one])


ALL = ["hermes", "llama3", "glm4", "mistral", "chatglm3"]
GOOD = ['{"city": "Bonn"}', '{"city": "}\\n明", "days": -3}']
BAD = ["{}", '{"city": 5}', '{"city": "Bonn", "x": 1}', "Bonn"]


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("choice", ["required", NamedTool("weather")])
def test_a_call_is_a_tools_and_as_its_schema_says(form: str, choice: ToolChoice) -> None:
    asked = reading(form, choice)
    grammar = grammar_of(asked)
    for arguments in GOOD:
        text = weather(form, arguments)
        assert allows(grammar, text)
        reader = asked.reader()
        [call] = Answer.of([*reader.feed(text), *reader.end()]).calls
        assert (call.name, call.arguments) == ("weather", arguments)
    for text in ["", "Hello", *(weather(form, arguments) for arguments in BAD), f"Hello {weather(form, GOOD[0])}"]:
        assert not allows(grammar, text), text
    time = weather(form, "{}").replace("weather", "时间")
    assert allows(grammar, time) == (choice == "required")


@pytest.mark.parametrize("form", ["hermes", "llama3", "mistral"])
def test_several_calls(form: str) -> None:
    two = several(form, GOOD[0])
    assert len(Answer.of(reading(form, "required").reader().feed(two)).calls) == 2
    assert allows(grammar_of(reading(form, "required")), two)
    assert not allows(grammar_of(reading(form, "required", parallel=False)), two)
    assert not allows(grammar_of(reading(form, NamedTool("weather"))), two)


@pytest.mark.parametrize("form", ALL)
def test_strict_tools_of_which_none_need_be_called(form: str) -> None:
    grammar = grammar_of(reading(form, None))
    good, bad = weather(form, GOOD[0]), weather(form, BAD[0])
    texts = ["", "Hello", "\nHello", '{"weather": "name"}', "weather\nis fine", "{", "名", "weather\n ```python\nx()"]
    assert all(allows(grammar, text) and not Answer.of(reading(form, None).reader().feed(text)).calls for text in texts)
    assert allows(grammar, good)
    assert not allows(grammar, bad)
    assert not allows(grammar, f"\n{bad}")


@pytest.mark.parametrize("form", ["hermes", "mistral"])
def test_strict_tools_that_are_called_behind_a_text(form: str) -> None:
    grammar = grammar_of(reading(form, None))
    assert allows(grammar, f"Hello {weather(form, GOOD[0])}")
    assert not allows(grammar, f"Hello {weather(form, BAD[0])}")


def test_a_marker_that_is_written_letter_by_letter_is_not_in_the_text() -> None:
    """It would be read as one."""
    spelt = [TOKENIZER.encode(char, add_special_tokens=False)[0] for char in "[TOOL_CALLS]"]
    matcher = grammar_of(reading("mistral", None)).matcher()
    for token in spelt[:-1]:
        matcher.advance(token)
    with pytest.raises(RequestError):
        matcher.advance(spelt[-1])


def test_strict_tools_that_are_called_in_the_middle() -> None:
    grammar = grammar_of(reading("hermes", None))
    good, bad = weather("hermes", GOOD[0]), weather("hermes", BAD[0])
    for text in ["Hello <tool_call", f"{good}\n{good} Bye."]:
        assert allows(grammar, text), text
    for text in [f"{good}\n{bad}", "Hello <tool_call>"]:
        assert not allows(grammar, text), text


@pytest.mark.parametrize("prompt", ["<think>\n", "assistant\n"])
def test_a_model_thinks_before_it_calls(prompt: str) -> None:
    grammar = grammar_of(reading("hermes", "required", prompt=prompt))
    begin = "" if prompt == "<think>\n" else "<think>\n"
    assert allows(grammar, f"{begin}Well, <tool_call>?\n</think>\n\n{weather('hermes', GOOD[0])}")
    assert not allows(grammar, f"{begin}Well.\n</think>\n\nHello")
    assert allows(grammar, weather("hermes", GOOD[0])) == bool(begin)


def test_a_model_that_must_not_think_does_not() -> None:
    grammar = grammar_of(reading("hermes", "required", prompt="<think>\n\n</think>\n\n"))
    assert allows(grammar, weather("hermes", GOOD[0]))
    assert not allows(grammar, f"<think></think>{weather('hermes', GOOD[0])}")


def test_what_an_answer_has_to_be_comes_behind_reasoning_or_is_a_call() -> None:
    thinking = grammar_of(Reading(reasoning=Think(), end_of_prompt="<think>\n"), OBJECT)
    assert allows(thinking, 'Well.</think>\n{"a": 1}')
    assert not allows(thinking, '{"a": 1}')
    either = grammar_of(reading("hermes", "auto"), OBJECT)
    assert allows(either, '{"a": 1}')
    assert allows(either, weather("hermes", GOOD[0]))
    assert not allows(either, "Hello")
    called = grammar_of(reading("hermes", "required"), OBJECT)
    assert not allows(called, '{"a": 1}')
    assert Reading().form(OBJECT) == OBJECT


@pytest.mark.parametrize(
    "choice, wanted, param",
    [("required", None, "tool_choice"), (None, None, "tools"), ("auto", OBJECT, "response_format")],
)
def test_what_there_is_no_grammar_for(choice: ToolChoice | None, wanted: Any, param: str) -> None:
    """A vocabulary without the token that stands before calls."""
    with pytest.raises(RequestError) as refused:
        replace(reading("mistral", choice), mark_ids={}).form(wanted)
    assert refused.value.param == param


def test_what_is_not_asked_for_has_no_grammar() -> None:
    assert reading("hermes", "auto").form(None) is None
    assert reading("hermes", "none").form(None) is None
    assert Reading().form(None) is None
