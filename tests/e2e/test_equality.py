"""An answer over HTTP depends on the request alone: not on company, chunks, the cache, or being thrown out of it.

Every engine is asked the same requests, alone, whole and cold, and then in every other way; ids and log-probabilities
have to be the same to the last bit. `--full` takes every engine with every size of chunk (three minutes); without it
each engine has one size, and each size meets both numbers of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.answers import Answer, ask, ask_at_once, assert_same, mixed_requests
from tests.e2e.conftest import Build
from tests.e2e.server import Server, serving

BLOCK = 16
WHOLE = 1024
"""Tokens of a step: enough for any of the prompts."""

SMALL_CACHE_KIB = {"float32": 960, "bfloat16": 480, "int8": 280}
"""On all ranks together, by what keys and values are kept as: for some 240 tokens, the longest request and no more."""


@dataclass(frozen=True)
class Case:
    """An engine, what its KV cache is kept as, and the size of the chunks it is tried with where not all are."""

    quant: str
    tp: int
    dtype: str
    kv: str
    chunk: int

    def __str__(self) -> str:
        return f"{self.quant}-tp{self.tp}-{self.dtype}-kv-{self.kv}"


CASES = (
    Case("none", 1, "float32", "float32", 7),
    Case("none", 2, "bfloat16", "bfloat16", 64),
    Case("int8", 1, "bfloat16", "int8", 1),
    Case("int8", 2, "float32", "float32", 7),
    Case("int4", 1, "float32", "bfloat16", 64),
    Case("int4", 2, "bfloat16", "int8", 1),
)

REQUESTS = mixed_requests()
LONGEST = len(REQUESTS[-1]["prompt"])
UNRELATED = [i for i, request in enumerate(REQUESTS[:-2]) if "n" not in request]
"""Those that find nothing of each other in the cache."""


@dataclass(frozen=True)
class Subject:
    """An engine that stands, with the flags that all its servers get."""

    case: Case
    engine: Path
    logs: Path

    @property
    def small_cache(self) -> tuple[str, str]:
        return "--kv-cache-memory", f"{SMALL_CACHE_KIB[self.case.kv] // self.case.tp}KiB"

    def serving(self, *flags: str) -> AbstractContextManager[Server]:
        own = ("--kv-cache-dtype", self.case.kv, "--block-size", str(BLOCK), "--max-model-len", "200")
        log = self.logs / f"{len(list(self.logs.iterdir()))}.log"
        return serving(self.engine, log, *own, *flags, ranks=self.case.tp if self.case.tp > 1 else None)


@pytest.fixture(scope="module", params=CASES, ids=str)
def subject(request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    case: Case = request.param
    engine = build("demo", "--quant", case.quant, "--tp-size", str(case.tp), "--dtype", case.dtype)
    return Subject(case, engine, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def cold(subject: Subject) -> Iterator[Server]:
    """Whole prompts, nothing cached, and room for one request only."""
    with subject.serving("--max-num-batched-tokens", str(WHOLE), "--no-prefix-caching", *subject.small_cache) as server:
        yield server


@pytest.fixture(scope="module")
def alone(cold: Server) -> list[Answer]:
    """What the answers have to be: each request had the server to itself."""
    answers = [ask(cold, request) for request in REQUESTS]
    assert not any(answer.cached_tokens for answer in answers)
    assert cold.metric("llmserve_num_preemptions_total") == 0
    return answers


@pytest.fixture(scope="class")  # so that tests are ordered by engine first
def chunked(subject: Subject, request: pytest.FixtureRequest, full: bool) -> Iterator[Server]:
    chunk: int = request.param
    if not full and chunk != subject.case.chunk:
        pytest.skip("other sizes of chunk than the engine's own in CASES are for --full")
    with subject.serving("--max-num-batched-tokens", str(chunk), "--overlap") as server:
        yield server


def steps_of_longest(server: Server) -> float:
    """How many steps a prompt takes that is as long as the longest, and has never been there."""
    before = server.metric("llmserve_engine_steps_total")
    ask(server, {"prompt": [5] * LONGEST, "max_tokens": 1})
    return server.metric("llmserve_engine_steps_total") - before


def test_the_reference_is_whole_and_no_two_answers_are_alike(cold: Server, alone: list[Answer]) -> None:
    """What the other tests compare with is worth it."""
    assert steps_of_longest(cold) == 1
    choices = [tuple(ids) for answer in alone for ids in answer.token_ids]
    assert len(set(choices)) == len(choices) == len(REQUESTS) + 1
    assert all(len(set(ids)) > 1 for ids in choices)


def test_batched_and_preempted_is_as_alone(cold: Server, alone: list[Answer]) -> None:
    before = cold.metric("llmserve_engine_steps_total")
    together = ask_at_once(cold, REQUESTS)
    steps = cold.metric("llmserve_engine_steps_total") - before
    assert steps < sum(answer.generated for answer in together), "there was never more than one in a step"
    assert cold.metric("llmserve_num_preemptions_total") > 0, "the cache held all of it: nobody was thrown out"
    assert_same(together, alone)


@pytest.mark.parametrize("chunked", (1, 7, 64, WHOLE), indirect=True, ids="chunks of {}".format)
class TestInChunks:
    def test_chunked_is_as_whole(self, chunked: Server, alone: list[Answer], request: pytest.FixtureRequest) -> None:
        answers = ask_at_once(chunked, REQUESTS)
        assert not any(answers[i].cached_tokens for i in UNRELATED)
        assert steps_of_longest(chunked) >= -(-LONGEST // request.node.callspec.params["chunked"])
        assert_same(answers, alone)

    def test_cached_is_as_cold(self, chunked: Server, alone: list[Answer]) -> None:
        ask_at_once(chunked, REQUESTS)
        again = ask_at_once(chunked, REQUESTS)
        for request, answer in zip(REQUESTS, again, strict=True):
            findable = (len(request["prompt"]) - 1) // BLOCK * BLOCK
            assert answer.cached_tokens == (0 if "prompt_logprobs" in request["extra_body"] else findable)
        assert_same(again, alone)


def test_chunked_cached_and_preempted_at_once_is_as_alone(subject: Subject, alone: list[Answer], full: bool) -> None:
    if not full and subject.case not in CASES[::3]:
        pytest.skip("other engines than one of each number of ranks are for --full")
    with subject.serving("--max-num-batched-tokens", "24", "--overlap", *subject.small_cache) as server:
        for _ in range(2):
            assert_same(ask_at_once(server, REQUESTS), alone)
        assert server.metric("llmserve_num_preemptions_total") > 0
        assert server.metric("llmserve_prefix_cache_hits_total") > 0
        assert steps_of_longest(server) >= -(-LONGEST // 24) > 1
