"""Stop strings, against the plain search of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.tokenizer import StopStrings
from tests.instructions import instructions


def run(stops: list[str], chunks: list[str]) -> tuple[str, str | None, list[str]]:
    """The text shown, the stop found, and what had been shown after each chunk."""
    search = StopStrings(stops).search()
    shown, history = "", []
    for chunk in chunks:
        text, stop = search.feed(chunk)
        shown += text
        history.append(shown)
        if stop is not None:
            return shown, stop, history
    return shown + search.end(), None, history


def plain_search(stops: list[str], text: str) -> tuple[str, str | None]:
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


few_letters = st.text("ab月", max_size=8)


@settings(max_examples=1000, deadline=None)
@given(stops=st.lists(st.text("ab月", min_size=1, max_size=5), max_size=4), chunks=st.lists(few_letters, max_size=10))
def test_it_finds_what_a_plain_search_of_the_whole_text_finds(stops: list[str], chunks: list[str]) -> None:
    text = "".join(chunks)
    shown, stop, history = run(stops, chunks)
    assert (shown, stop) == plain_search(stops, text)
    # Never leaked: at no time was anything shown that is not part of the answer.
    assert all(shown.startswith(partial) for partial in history)


@settings(max_examples=300, deadline=None)
@given(stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3), chunks=st.lists(st.text("ab"), max_size=8))
def test_no_more_is_held_back_than_could_begin_a_stop(stops: list[str], chunks: list[str]) -> None:
    seen = ""
    search = StopStrings(stops).search()
    shown = ""
    for chunk in chunks:
        seen += chunk
        text, stop = search.feed(chunk)
        shown += text
        if stop is not None:
            return
        held = seen[len(shown) :]
        begins = [seen[-k:] for s in stops for k in range(1, len(s)) if seen.endswith(s[:k])]
        assert held == max(begins, key=len, default="")


def test_a_stop_across_chunks() -> None:
    assert run(["###"], ["one #", "# two ##", "# three"]) == (
        "one ## two ",
        "###",
        ["one ", "one ## two ", "one ## two "],
    )


def test_of_two_stops_that_end_together_the_longer_is_found() -> None:
    assert run(["b", "ab"], ["xab"])[:2] == ("x", "ab")


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])


def test_the_worst_stop_string_costs_no_more_than_its_text() -> None:
    """A character behind a long beginning of it costs the same to the last instruction as behind a short one."""

    def cost(length: int) -> int:
        search = StopStrings(["a" * length + "b"]).search()

        def feed() -> None:
            assert [len(search.feed("a")[0]) for _ in range(100)] == [1] * 100

        assert sum(len(search.feed("a")[0]) for _ in range(4 * length)) == 3 * length
        return instructions(feed)

    assert cost(5000) == cost(50) > 0
