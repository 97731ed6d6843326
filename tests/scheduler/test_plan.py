"""The wire format of a step: decode is the inverse of encode, and what is not a plan is refused."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.scheduler import Chunk, StepPlan

int32 = st.integers(0, 2**31 - 1)


@st.composite
def chunk(draw: st.DrawFn) -> Chunk:
    tokens = tuple(draw(st.lists(int32, min_size=1, max_size=6)))
    blocks = tuple(draw(st.lists(int32, max_size=4)))
    logits = draw(st.integers(0, len(tokens)))
    hidden = draw(st.integers(0, len(tokens) - logits))
    return Chunk(draw(int32), draw(int32), draw(int32), tokens, blocks, logits, draw(int32), hidden)


plans = st.builds(StepPlan.of, st.lists(chunk(), max_size=5))

PLAN = StepPlan.of([Chunk(0, 5, 2, (7,), (), 1), Chunk(3, 0, 0, (7, 8, 9), (4, 1), 0, 6, 2)])


@given(plans)
def test_decode_takes_what_a_plan_is(plan: StepPlan) -> None:
    words = plan.words
    assert words.typecode == "i"
    assert words.itemsize == 4
    assert len(words) > 0  # an empty array means stop
    assert StepPlan.decode(words) == plan


def test_wire_format() -> None:
    assert PLAN.words.tolist() == [2, 4, 2, 0, 5, 2, 1, 0, 1, 0, 0, 3, 0, 0, 0, 6, 3, 2, 2, 7, 7, 8, 9, 4, 1]


def test_totals() -> None:
    assert (PLAN.num_chunks, PLAN.num_tokens, PLAN.num_logits) == (2, 4, 1)
    assert (PLAN.starts.tolist(), PLAN.lengths.tolist()) == ([5, 0], [1, 3])
    assert (StepPlan.of([]).num_tokens, StepPlan.of([]).num_logits) == (0, 0)


@given(plans, st.data())
def test_truncated_or_extended_words_are_refused(plan: StepPlan, data: st.DataObject) -> None:
    words = plan.words
    with pytest.raises(ValueError, match="not a step plan"):
        StepPlan.decode(words[: data.draw(st.integers(0, len(words) - 1))])
    with pytest.raises(ValueError, match="not a step plan"):
        StepPlan.decode(words + array("i", [0]))


@pytest.mark.parametrize(
    "words",
    [
        [],
        [-1],
        [0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 7],  # a token of nobody's
        [1, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0],  # the token is missing
        [1, 1, 0, -1, 0, 0, 0, 0, 1, 0, 0, 7],  # row
        [1, 1, 0, 0, -1, 0, 0, 0, 1, 0, 0, 7],  # start
        [1, 1, 0, 0, 0, -1, 0, 0, 1, 0, 0, 7],  # first_block
        [1, 1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 7],  # logits
        [1, 1, 0, 0, 0, 0, 2, 0, 1, 0, 0, 7],  # more logits than tokens
        [1, 1, 0, 0, 0, 0, 0, -1, 1, 0, 0, 7],  # variant
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, -1, 7],  # hidden
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 2, 7],  # more hidden states than tokens
        [1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 7],  # more of both
        [1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 7],  # no tokens
        [2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7],  # one of two has none
        [1, 2, -1, 0, 0, 0, 0, 0, 2, -1, 0, 7],
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 7],  # a block is missing
        [1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 7, 3],  # a block of nobody's
        [2**31 - 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 7],
    ],
)
def test_malformed_words_are_refused(words: list[int]) -> None:
    with pytest.raises(ValueError, match="not a step plan"):
        StepPlan.decode(array("i", words))


@given(st.lists(st.integers(-3, 9), max_size=30))
def test_any_words_are_a_plan_or_refused(words: list[int]) -> None:
    try:
        plan = StepPlan.decode(array("i", words))
    except ValueError:
        return
    assert plan.words.tolist() == words


def test_a_number_beyond_int32_does_not_wrap() -> None:
    with pytest.raises(OverflowError):
        StepPlan.of([Chunk(0, 0, 0, (2**31,), (), 1)])


def test_plans_are_immutable() -> None:
    with pytest.raises(AttributeError):
        PLAN.words = array("i")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        PLAN.chunks[0].row = 1  # type: ignore[misc]
