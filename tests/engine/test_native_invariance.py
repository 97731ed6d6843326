"""A request's answer depends on the request alone: not on its company, its chunks, the cache, or being thrown out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.request import Finish, Request
from tests.engine.answers import Answer, Engine, assert_same

BLOCK_BYTES = 2 * 2 * 2 * 16 * 4
"""Of one token's place in the tiny models' KV cache: keys and values, layers, KV heads, head size, float32."""


def check(answers: dict[int, Answer], expected: dict[int, Answer]) -> None:
    assert answers.keys() == expected.keys()
    for i, answer in answers.items():
        assert_same(answer, expected[i])


def test_the_requests_are_not_all_alike(expected: dict[int, Answer]) -> None:
    """What the other tests compare is worth comparing."""
    assert len({tuple(answer.tokens) for answer in expected.values()}) == len(expected)
    assert all(len(set(answer.tokens)) > 1 for answer in expected.values())


def test_batched_is_as_alone(folder: Path, requests: list[Request], expected: dict[int, Answer]) -> None:
    engine = Engine(folder, prefix_caching=False)
    check(engine.run(requests), expected)
    assert engine.native.stats().steps < sum(len(answer.tokens) for answer in expected.values())


@pytest.mark.parametrize("budget", [1, 5, 16, 37])
def test_chunked_is_as_whole(folder: Path, requests: list[Request], expected: dict[int, Answer], budget: int) -> None:
    check(Engine(folder, prefix_caching=False, max_num_batched_tokens=budget).run(requests), expected)


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_block_size_does_not_show(
    folder: Path, requests: list[Request], expected: dict[int, Answer], block_size: int
) -> None:
    check(Engine(folder, block_size=block_size).run(requests), expected)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_cached_is_as_cold(folder: Path, requests: list[Request], expected: dict[int, Answer], block_size: int) -> None:
    engine = Engine(folder, block_size=block_size)
    engine.run(requests)
    again = engine.run([replace(request, id=request.id + 100) for request in requests])
    for request in requests:
        answer = again[request.id + 100]
        assert_same(answer, expected[request.id])
        assert answer.cached_tokens == (len(request.prompt) - 1) // block_size * block_size


def test_preempted_is_as_undisturbed(folder: Path, requests: list[Request], expected: dict[int, Answer]) -> None:
    for caching in (False, True):
        engine = Engine(folder, block_size=4, kv_cache_memory=84 * BLOCK_BYTES, prefix_caching=caching)
        check(engine.run(requests), expected)
        assert engine.native.stats().preemptions > 0


def test_one_at_a_time_is_as_all_at_once(folder: Path, requests: list[Request], expected: dict[int, Answer]) -> None:
    check(Engine(folder, max_num_seqs=1).run(requests), expected)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_at_once(
    folder: Path, requests: list[Request], expected: dict[int, Answer], data: st.DataObject
) -> None:
    """Any limits, any order and moment of arrival, and others that leave early."""
    block_size = data.draw(st.sampled_from([1, 3, 4, 16]))
    blocks = data.draw(st.integers(-(-84 // block_size), -(-300 // block_size)))
    engine = Engine(
        folder,
        block_size=block_size,
        kv_cache_memory=blocks * block_size * BLOCK_BYTES,
        max_num_seqs=data.draw(st.integers(1, 8)),
        max_num_batched_tokens=data.draw(st.integers(1, 80)),
        prefix_caching=data.draw(st.booleans()),
    )
    rng = data.draw(st.randoms(use_true_random=False))
    leavers = [replace(request, id=request.id + 100) for request in requests if rng.random() < 0.3]
    arrivals = rng.sample(requests + leavers, len(requests) + len(leavers))
    left = set()
    while arrivals or engine.native.has_work:
        if arrivals and rng.random() < 0.4:
            engine.submit(arrivals.pop())
        if (present := [r.id for r in leavers if r.id in engine.answers and r.id not in left]) and rng.random() < 0.1:
            left.add(leaver := rng.choice(present))
            engine.add(filter(None, [engine.native.abort(leaver)]))
        engine.step()
    for request in requests:
        assert_same(engine.answers[request.id], expected[request.id])
    for leaver in leavers:
        answer, whole = engine.answers[leaver.id], expected[leaver.id - 100]
        assert answer.finish in (Finish.ABORT, whole.finish)
        assert answer.tokens == whole.tokens[: len(answer.tokens)]
