"""A request's rules, kept up token by token, are those that all its tokens at once would give."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.errors import RequestError
from llmserve.request import Request, SamplingParams
from llmserve.runtime.edits import Edits
from llmserve.runtime.rules import Rules, mask_of

VOCAB = 40
PLAIN = SamplingParams(100)
IDS = st.lists(st.integers(0, 7), max_size=30)


def rules_of(prompt: Iterable[int], matcher: FakeMatcher | None = None, **params: object) -> Rules:
    return Rules(Request(0, tuple(prompt), replace(PLAIN, **params)), VOCAB, matcher)


class FakeMatcher:
    """The answer is the numbers from 0 on, up to `last`."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.next = 0

    def advance(self, token: int) -> None:
        if token != self.next:
            raise RequestError(f"{token} is not {self.next}.")
        self.next += 1

    @property
    def complete(self) -> bool:
        return self.next > self.last

    def allowed(self, ends: Iterable[int]) -> bytes:
        return mask_of(ends if self.complete else [self.next], VOCAB)


def allowed_in(edits: Edits | None) -> set[int]:
    assert edits is not None
    assert edits.allowed is not None
    return {t for t in range(VOCAB) if edits.allowed[t // 8] >> t % 8 & 1} - set(edits.banned)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=20), IDS, st.sampled_from([1.0, 1.2]), st.data())
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_whole_sequence(
    prompt: list[int], answer: list[int], repetition: float, data: st.DataObject
) -> None:
    """However many tokens came since the last row, and what is asked twice is answered twice."""
    rules = rules_of(prompt, repetition_penalty=repetition, presence_penalty=0.5)
    steps = sorted(data.draw(st.sets(st.integers(0, len(answer)))) | {len(answer)})
    for n in [*steps, len(answer)]:
        edits = rules.edits(prompt + answer[:n] + [-1], len(prompt) + n)
        told = dict(zip(edits.seen, edits.counts, strict=True)) if edits else {}
        seen = set(prompt) if repetition != 1 else set()
        assert told == {token: Counter(answer[:n])[token] for token in seen | set(answer[:n])}


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4), IDS)
@settings(max_examples=100, deadline=None)
def test_bad_words_are_banned_where_the_answer_has_all_but_their_last(
    words: list[tuple[int, ...]], answer: list[int]
) -> None:
    """The prompt's tokens do not count."""
    prompt = [0, 1, 2, 3]
    rules = rules_of(prompt, bad_words=tuple(words))
    for n in range(len(answer) + 1):
        edits = rules.edits(prompt + answer[:n] + [-1], 4 + n)
        expected = {word[-1] for word in words if tuple(answer[max(0, n - len(word) + 1) : n]) == word[:-1]}
        assert set(edits.banned if edits else ()) == expected


def test_a_bad_word_that_begins_in_the_prompt_is_none() -> None:
    rules = rules_of([5, 3], bad_words=((3, 0, 1),))
    assert rules.edits([5, 3, 0, -1], 3) is None
    edits = rules.edits([5, 3, 0, 3, 0, -1], 5)
    assert edits is not None
    assert list(edits.banned) == [1]


def test_without_anything_to_do_there_are_no_edits() -> None:
    assert rules_of([1, 2], min_tokens=2, stop_token_ids=frozenset({5})).edits([1, 2, 7, 7, -1], 4) is None
    assert rules_of([1, 2], frequency_penalty=0.5).edits([1, 2, -1], 2) is None
    assert rules_of([1, 2], repetition_penalty=1.5).edits([1, 2, -1], 2) is not None


def test_min_tokens_ban_the_stop_tokens_that_the_model_has() -> None:
    rules = rules_of([1], min_tokens=2, stop_token_ids=frozenset({-1, 5, VOCAB, 10**12}))
    banned = [edits.banned if (edits := rules.edits([1, 7, 7, -1], n)) else array("i") for n in (1, 2, 3)]
    assert [list(each) for each in banned] == [[5], [5], []]


def test_a_grammar_allows_its_next_and_the_end_where_it_ends() -> None:
    rules = rules_of([9], FakeMatcher(2), stop_token_ids=frozenset({30, 31}))
    sequence = [9, 0, 1, 2, -1]
    assert [allowed_in(rules.edits(sequence, n)) for n in (1, 2, 3, 4)] == [{0}, {1}, {2}, {30, 31}]
    assert allowed_in(rules.edits(sequence, 4)) == {30, 31}, "and advances once only"


def test_a_grammar_is_caught_up_with_however_many_tokens_came() -> None:
    assert allowed_in(rules_of([9], FakeMatcher(9)).edits([9, 0, 1, 2, -1], 4)) == {3}


def test_a_grammar_that_is_left_says_so() -> None:
    with pytest.raises(RequestError, match="7 is not 1"):
        rules_of([9], FakeMatcher(9)).edits([9, 0, 7, -1], 3)


def test_of_a_grammar_and_a_list_of_tokens_both_have_to_allow_one() -> None:
    rules = rules_of([9], FakeMatcher(9), allowed_token_ids=frozenset({0, 30}))
    assert allowed_in(rules.edits([9, -1], 1)) == {0}
    assert allowed_in(rules.edits([9, 0, -1], 2)) == set()


def test_min_tokens_keep_no_grammar_from_ending_where_it_has_to() -> None:
    rules = rules_of([9], FakeMatcher(1), stop_token_ids=frozenset({30}), min_tokens=50)
    assert [allowed_in(rules.edits([9, 0, 1, -1], n)) for n in (1, 2, 3)] == [{0}, {1}, {30}]
