"""Events are the same wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmserve.bench.sse import EventParser

STREAM = (
    'data: {"a": "世界"}\n\n'
    ": a comment\n\n"
    'event: x\nid: 1\ndata:{"b": 2}\n\n'
    "data: two\r\ndata: lines\r\n\r\n"
    "data: old\r\r"
    "data\n\n"
    "data: [DONE]\n\n"
).encode()
EVENTS = ['{"a": "世界"}', '{"b": 2}', "two\nlines", "old", "", "[DONE]"]


def events(pieces: list[bytes]) -> list[str]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(st.sets(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_the_cuts(cuts: set[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    assert events([STREAM[a:b] for a, b in pairwise(ends)]) == EVENTS


def test_byte_by_byte() -> None:
    assert events([bytes([byte]) for byte in STREAM]) == EVENTS


def test_an_event_is_there_as_soon_as_it_is_complete() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\r") == []
    assert parser.feed(b"\n\r") == ["1"]
    assert parser.feed(b"\ndata: 2\n\n") == ["2"]


def test_what_has_no_end_is_no_event() -> None:
    assert events([b"data: cut off\n"]) == []
