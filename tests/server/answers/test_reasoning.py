"""Reasoning, and tool calls behind it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.server.answers.parts import Answer, Call
from llmserve.server.answers.reader import AnswerReader
from llmserve.server.answers.reasoning.think import Think
from llmserve.server.answers.tools.hermes import Hermes

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
ASKED = "<|im_start|>assistant\n"
INSIDE = f"{ASKED}<think>\n"
WITHOUT = f"{ASKED}<think>\n\n</think>\n\n"


def reader(prompt: str, *, one_call: bool = False, keeps_reasoning: bool = True) -> AnswerReader:
    tools = Hermes().parser([{"name": "f"}])
    return AnswerReader(Think().parser(prompt), tools, one_call=one_call, keeps_reasoning=keeps_reasoning)


def read(reader: AnswerReader, *pieces: str) -> Answer:
    told = [part for piece in pieces for part in reader.feed(piece)]
    return Answer.of([*told, *reader.end()])


@pytest.mark.parametrize(
    "prompt, thought, rest, expected",
    [
        (ASKED, "<think>\nWell.\n\nSo.\n</think>", "\n\nHi.\n", Answer("Hi.\n", "Well.\n\nSo.")),
        (INSIDE, "Well.\n</think>", "\n\nHi.", Answer("Hi.", "Well.")),
        (ASKED, "\n <think>a</think>", "b", Answer("b", "a")),
        (ASKED, "", "Hi <think>a</think>", Answer("Hi <think>a</think>")),
        (WITHOUT, "", "Hi </think>.", Answer("Hi </think>.")),
        (ASKED, "<think>\n\n</think>", "\n\nHi", Answer("Hi")),
        (ASKED, "", "<thin", Answer("<thin")),
        (ASKED, f"<think>I could {CALL}</think>", CALL, Answer("", f"I could {CALL}", [Call("f", "{}")])),
    ],
)
def test_what_is_thought_is_told_apart(prompt: str, thought: str, rest: str, expected: Answer) -> None:
    text = thought + rest
    for pieces in ((text,), tuple(text)):
        parser = reader(prompt)
        assert read(parser, *pieces) == expected
        assert parser.reasoning_chars == len(thought)


@pytest.mark.parametrize(
    "prompt, text, thought", [(ASKED, "<think>a</thin", "a</thin"), (INSIDE, "a ", "a "), (INSIDE, "", "")]
)
def test_a_thought_may_have_no_end(prompt: str, text: str, thought: str) -> None:
    parser = reader(prompt)
    assert read(parser, *text) == Answer(reasoning=thought)
    assert parser.reasoning_chars == math.inf


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([ASKED, INSIDE, WITHOUT]),
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think>", "\n", " ", "a", CALL]), max_size=10),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_how_a_text_is_cut_does_not_matter(prompt: str, written: list[str], cuts: list[int]) -> None:
    text = "".join(written)
    at = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]
    one, other = reader(prompt), reader(prompt)
    assert read(one, *pieces) == read(other, text)
    assert one.reasoning_chars == other.reasoning_chars


def test_what_is_not_wanted_is_left_out() -> None:
    text = f"<think>a</think>{CALL}\n{CALL} b"
    assert read(reader(ASKED, one_call=True, keeps_reasoning=False), *text) == Answer(" b", "", [Call("f", "{}")])


def test_nothing_of_a_marker_is_shown_while_it_may_become_one() -> None:
    parser = reader(ASKED)
    shown = [part for char in f"<think>a b</think>c\n{CALL}"[:-12] for part in parser.feed(char)]
    assert Answer.of(shown) == Answer("c", "a b", [Call("f", "{}")])
