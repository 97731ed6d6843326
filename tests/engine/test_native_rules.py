"""Grammars and everything else that bends logits: as alone in any company, and nobody else's business.

The vocabulary is 95 characters and a token that ends answers, so that a model of random weights writes any text.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmserve.engine.grammars import Waiting
from llmserve.grammar import Library, Vocabulary
from llmserve.request import Finish, Request, SamplingParams
from llmserve.server import grammars
from tests.engine.answers import Answer, Built, Engine, assert_same
from tests.kernels import SETS
from tests.tiny import SIZES

VOCAB = SIZES["vocab_size"]
END = 0
TEXTS = [b"<end>", *(bytes([32 + i]) for i in range(VOCAB - 1))]
ENDS = frozenset({END})

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6, "pattern": "^[a-z]*$"},
        "size": {"type": "integer", "minimum": -20, "maximum": 300},
        "tags": {"type": "array", "items": {"enum": ["a", "bc", None, True]}, "maxItems": 2},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
TOO_MUCH = grammars.regex("((a{1,1000}){1,1000}){1,1000}")
"""The library gives up on it after some tokens."""


@pytest.fixture(scope="module", params=["kernels", "reference"] if SETS else ["reference"])
def built(request: pytest.FixtureRequest, make: Callable[..., Path]) -> Built:
    return Built(make(None), {"kernels": "reference"} if request.param == "reference" else {}, None)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(lambda: Vocabulary(TEXTS, [END]))


@pytest.fixture
def start(built: Built, library: Library) -> Callable[..., Engine]:
    def engine(**config: Any) -> Engine:
        started = Engine(built, **config)
        started.native._waiting = Waiting(library)
        return started

    return engine


def text(answer: Answer) -> str:
    return b"".join(TEXTS[token] for token in answer.tokens if token != END).decode()


def bent_requests() -> list[Request]:
    rng = random.Random(5)
    ways: list[dict[str, Any]] = [
        {"grammar": grammars.json_schema(SCHEMA)},
        {"grammar": grammars.json_schema(SCHEMA), "temperature": 0.0, "logprobs": 2},
        {"grammar": grammars.regex("(ab|cd){3,9}x"), "frequency_penalty": 1.5, "top_k": 5},
        {"grammar": grammars.choice(["one", "other"]), "min_tokens": 40},
        {"grammar": grammars.json_schema(SCHEMA), "top_p": 0.9, "repetition_penalty": 1.1, "prompt_logprobs": 1},
        {"repetition_penalty": 1.3, "presence_penalty": 0.7, "logprobs": 0},
        {"frequency_penalty": 0.9, "temperature": 0.0},
        {"logit_bias": ((7, 6.0), (9, 5.5), (END, -100.0)), "bad_words": ((7, 7), (9,)), "min_p": 0.02},
        {"allowed_token_ids": frozenset(range(20, 60)), "top_k": 20, "min_p": 0.1},
        {},
    ]
    return [
        Request(
            i,
            tuple(rng.choices(range(1, VOCAB), k=rng.choice([3, 20, 40]))),
            replace(SamplingParams(max_tokens=80, seed=i, stop_token_ids=ENDS), **way),
        )
        for i, way in enumerate(ways)
    ]


@pytest.fixture(scope="module")
def expected(built: Built, library: Library) -> dict[int, Answer]:
    answers = {}
    for request in bent_requests():
        engine = Engine(built, prefix_caching=False)
        engine.native._waiting = Waiting(library)
        answers[request.id] = engine.run([request])[request.id]
    return answers


def test_answers_follow_their_grammars_and_stop_where_these_end(expected: dict[int, Answer]) -> None:
    for i in (0, 1, 4):
        jsonschema.validate(json.loads(text(expected[i])), SCHEMA)
    assert set(text(expected[2])[:-1]) <= set("abcd")
    assert text(expected[2])[-1] == "x"
    assert text(expected[3]) in ("one", "other"), "also where min_tokens are more"
    assert {expected[i].finish for i in range(5)} == {Finish.STOP}
    assert all(expected[i].tokens[-1] == END for i in range(5))


def test_answers_keep_to_their_other_parameters(expected: dict[int, Answer]) -> None:
    seven = expected[7].tokens
    assert 9 not in seven
    assert (7, 7) not in itertools.pairwise(seven)
    assert 7 in seven
    assert set(expected[8].tokens) <= set(range(20, 60))


def memory_for(start: Callable[..., Engine], tokens: int, block_size: int) -> int:
    return -(-tokens // block_size) * start(block_size=block_size, max_num_seqs=1).native.kv.block_bytes


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("way", ["whole", "chunked", "preempted", "one at a time"])
def test_in_any_company_it_is_as_alone(
    built: Built, start: Callable[..., Engine], expected: dict[int, Answer], way: str, overlap: bool
) -> None:
    config: dict[str, Any] = {
        "whole": {},
        "chunked": {"max_num_batched_tokens": 13},
        "preempted": {"block_size": 16, "kv_cache_memory": memory_for(start, 160, 16)},
        "one at a time": {"max_num_seqs": 1},
    }[way]
    engine = start(overlap=overlap, **config)
    engine.run(bent_requests())
    for i, answer in expected.items():
        assert_same(engine.answers[i], answer, built)
    if way == "preempted":
        assert engine.native.stats().preemptions > 0
    assert not engine.native._rules


def test_who_leaves_no_token_to_choose_costs_nobody_the_prefix(start: Callable[..., Engine]) -> None:
    ask = Request(1, tuple(1 + i % 90 for i in range(40)), SamplingParams(max_tokens=2, temperature=0))
    only = frozenset({7})
    impossible = SamplingParams(max_tokens=5, min_tokens=3, allowed_token_ids=only, stop_token_ids=only)
    engine = start()
    engine.run([ask])
    engine.native.submit(replace(ask, id=2, sampling=impossible))
    events = [event for _ in range(9) if engine.native.has_work for event in engine.native.step()]
    assert [(event.finish, event.refused) for event in events] == [(Finish.ERROR, True)]
    assert engine.run([replace(ask, id=3)])[3].cached_tokens == 32


def test_a_grammar_that_cannot_be_used_ends_its_request_alone(
    built: Built, start: Callable[..., Engine], expected: dict[int, Answer]
) -> None:
    engine = start()
    broken = replace(bent_requests()[0], id=50)
    errors = {
        50: (grammars.lark("start: nowhere"), "The answer's grammar cannot be used: "),
        51: (TOO_MUCH, "The answer's grammar cannot be followed further: "),
    }
    for request in bent_requests():
        engine.submit(request)
    for i, (grammar, _) in errors.items():
        engine.submit(replace(broken, id=i, sampling=replace(broken.sampling, grammar=grammar, min_tokens=60)))
    told: dict[int, str] = {}
    while engine.native.has_work:
        events = engine.native.step()
        told |= {event.request_id: event.error for event in events if event.error is not None}
        assert all(event.refused for event in events if event.error is not None)
        engine.add(events)
    assert told.keys() == errors.keys()
    for i, (_, beginning) in errors.items():
        assert engine.answers[i].finish is Finish.ERROR
        assert told[i].startswith(beginning)
        assert told[i].endswith(".")
    for i, answer in expected.items():
        assert_same(engine.answers[i], answer, built)


def test_who_asks_for_a_grammar_that_is_there_waits_for_none(
    built: Built, slow_library: tuple[Library, threading.Event], expected: dict[int, Answer]
) -> None:
    engine = Engine(built)
    library, go = slow_library
    engine.native._waiting = Waiting(library)
    go.set()
    engine.run([bent_requests()[0]])
    go.clear()
    library.thread.submit(go.wait)  # who had to wait for the thread would not come in
    engine.submit(replace(bent_requests()[0], id=70))
    assert len(engine.native._waiting) == 0
    engine.run()
    assert_same(engine.answers[70], replace(expected[0], cached_tokens=engine.answers[70].cached_tokens), built)


@pytest.fixture
def slow_library() -> Iterator[tuple[Library, threading.Event]]:
    """One that reads only once it may."""
    go = threading.Event()

    def read() -> Vocabulary:
        go.wait()
        return Vocabulary(TEXTS, [END])

    yield Library(read), go
    go.set()


def test_while_a_grammar_is_read_others_run_and_it_may_be_given_up(
    built: Built, slow_library: tuple[Library, threading.Event], expected: dict[int, Answer]
) -> None:
    engine = Engine(built)
    library, go = slow_library
    engine.native._waiting = Waiting(library)
    clock = [100.0]
    engine.native._clock = lambda: clock[0]
    requests = bent_requests()
    hurried = replace(requests[0], id=60, timeout=5.0)
    for request in (requests[0], replace(requests[0], id=61), hurried, requests[9]):
        engine.submit(request)
    assert len(engine.native._waiting) == 3
    while engine.answers[9].finish is None:
        engine.step()
    assert_same(engine.answers[9], expected[9], built)
    left = engine.native.abort(61)
    assert left is not None
    engine.add([left])
    assert engine.answers[61].finish is Finish.ABORT
    clock[0] += 6
    engine.step()
    assert engine.answers[60].finish is Finish.TIMEOUT, "it is not waited for"
    go.set()
    engine.run()
    assert (engine.answers[60].finish, engine.answers[60].tokens) == (Finish.TIMEOUT, [])
    assert_same(engine.answers[0], expected[0], built)


def test_all_are_ended_also_those_whose_grammars_are_read(
    built: Built, slow_library: tuple[Library, threading.Event]
) -> None:
    engine = Engine(built)
    engine.native._waiting = Waiting(slow_library[0])
    for request in bent_requests():
        engine.submit(request)
    engine.step()
    engine.add(engine.native.abort_all(Finish.ABORT))
    assert {answer.finish for answer in engine.answers.values()} == {Finish.ABORT}
    assert not engine.native.has_work
