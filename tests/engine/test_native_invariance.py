"""A request's answer depends on the request alone: not on its company, its chunks, the cache, or being thrown out."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.request import Finish, Request
from tests.engine.answers import Answer, Built, Engine, assert_same


def check(engine: Engine, expected: dict[int, Answer]) -> None:
    assert engine.answers.keys() == expected.keys()
    for i, answer in engine.answers.items():
        assert_same(answer, expected[i], engine.built)


def block_sizes(*any_size: int, kernels: tuple[int, ...]) -> pytest.MarkDecorator:
    """Of the reference, any; of the kernels, multiples of 16."""
    cases = [("reference", size) for size in any_size] + [("kernels", size) for size in kernels]
    return pytest.mark.parametrize("path, block_size", cases)


def skip_other(built: Built, path: str) -> None:
    if built.is_reference != (path == "reference"):
        pytest.skip(f"blocks of another size, for the {path}")


def memory_for(built: Built, tokens: int, block_size: int) -> int:
    """Bytes of a KV cache that holds that many tokens and not a block more."""
    block_bytes = Engine(built, block_size=block_size, max_num_seqs=1).native.kv.block_bytes
    return -(-tokens // block_size) * block_bytes


def test_the_requests_are_not_all_alike(expected: dict[int, Answer]) -> None:
    """What the other tests compare is worth comparing."""
    assert len({tuple(answer.tokens) for answer in expected.values()}) == len(expected)
    assert all(len(set(answer.tokens)) > 1 for answer in expected.values())


def test_batched_is_as_alone(built: Built, requests: list[Request], expected: dict[int, Answer]) -> None:
    engine = Engine(built, prefix_caching=False)
    engine.run(requests)
    check(engine, expected)
    assert engine.native.stats().steps < sum(len(answer.tokens) for answer in expected.values())


@pytest.mark.parametrize("budget", [1, 5, 16, 37])
def test_chunked_is_as_whole(built: Built, requests: list[Request], expected: dict[int, Answer], budget: int) -> None:
    engine = Engine(built, prefix_caching=False, max_num_batched_tokens=budget)
    engine.run(requests)
    check(engine, expected)


@block_sizes(1, 3, 16, kernels=(32, 48, 1024))
def test_block_size_does_not_show(
    built: Built, requests: list[Request], expected: dict[int, Answer], path: str, block_size: int
) -> None:
    skip_other(built, path)
    engine = Engine(built, block_size=block_size)
    engine.run(requests)
    check(engine, expected)


@block_sizes(1, 4, 16, kernels=(16, 32))
def test_cached_is_as_cold(
    built: Built, requests: list[Request], expected: dict[int, Answer], path: str, block_size: int
) -> None:
    skip_other(built, path)
    engine = Engine(built, block_size=block_size)
    engine.run(requests)
    again = engine.run([replace(request, id=request.id + 100) for request in requests])
    for request in requests:
        answer = again[request.id + 100]
        assert_same(answer, expected[request.id], built)
        cached = (len(request.prompt) - 1) // block_size * block_size
        assert answer.cached_tokens == (cached if request.sampling.prompt_logprobs is None else 0)


@pytest.mark.parametrize("limit", [0, 1, 6])
def test_how_much_of_a_prompt_is_told_of_at_a_time_does_not_show(
    built: Built, requests: list[Request], expected: dict[int, Answer], limit: int
) -> None:
    with patch("llmserve.engine.native.MAX_PROMPT_LOGITS", limit):
        engine = Engine(built)
    engine.run(requests)
    check(engine, expected)
    assert all(len(expected[i].prompt) == len(requests[i].prompt) - 1 for i in (3, 8))
    assert engine.native.stats().steps >= len(requests[3].prompt) // (limit + 1)


def test_preempted_is_as_undisturbed(
    built: Built, long_requests: list[Request], long_expected: dict[int, Answer]
) -> None:
    block_size = 4 if built.is_reference else 16
    for caching in (False, True):
        memory = memory_for(built, 128, block_size)
        engine = Engine(built, block_size=block_size, kv_cache_memory=memory, prefix_caching=caching)
        engine.run(long_requests)
        check(engine, long_expected)
        assert engine.native.stats().preemptions > 0


def test_one_at_a_time_is_as_all_at_once(built: Built, requests: list[Request], expected: dict[int, Answer]) -> None:
    engine = Engine(built, max_num_seqs=1)
    engine.run(requests)
    check(engine, expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_show(built: Built, requests: list[Request], expected: dict[int, Answer], threads: int) -> None:
    engine = Engine(built, threads=threads)
    engine.run(requests)
    check(engine, expected)


def test_what_is_prepared_ahead_is_as_what_is_not(
    built: Built, long_requests: list[Request], long_expected: dict[int, Answer]
) -> None:
    """With preemption, and stop tokens, so that plans change at the last moment."""
    memory = memory_for(built, 128, built.small_block)
    steps = []
    for overlap in (False, True):
        engine = Engine(built, block_size=built.small_block, kv_cache_memory=memory, overlap=overlap)
        stops = {r.id: frozenset(long_expected[r.id].tokens[9:]) for r in long_requests}
        stopping = [
            replace(r, id=r.id + 100, sampling=replace(r.sampling, stop_token_ids=stops[r.id])) for r in long_requests
        ]
        engine.run([*long_requests, *stopping])
        for request in long_requests:
            assert_same(engine.answers[request.id], long_expected[request.id], built)
            stopped = engine.answers[request.id + 100]
            assert stopped.finish is Finish.STOP
            assert stopped.tokens == long_expected[request.id].tokens[: len(stopped.tokens)]
        assert engine.native.stats().preemptions > 0
        steps.append(engine.native.stats().steps)
    assert steps[0] <= steps[1]  # who ends unexpectedly leaves a place for a step


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_at_once(
    built: Built, long_requests: list[Request], long_expected: dict[int, Answer], data: st.DataObject
) -> None:
    """Any limits, any order and moment of arrival, and others that leave early."""
    block_size = data.draw(st.sampled_from([1, 3, 4, 16] if built.is_reference else [16, 32, 48]))
    tokens = data.draw(st.integers(128, 400))
    engine = Engine(
        built,
        block_size=block_size,
        kv_cache_memory=memory_for(built, tokens, block_size),
        max_num_seqs=data.draw(st.integers(1, 8)),
        max_num_batched_tokens=data.draw(st.integers(1, 80)),
        prefix_caching=data.draw(st.booleans()),
        overlap=data.draw(st.booleans()),
    )
    rng = data.draw(st.randoms(use_true_random=False))
    leavers = [replace(request, id=request.id + 100) for request in long_requests if rng.random() < 0.3]
    arrivals = rng.sample(long_requests + leavers, len(long_requests) + len(leavers))
    left = set()
    while arrivals or engine.native.has_work:
        if arrivals and rng.random() < 0.4:
            engine.submit(arrivals.pop())
        if (present := [r.id for r in leavers if r.id in engine.answers and r.id not in left]) and rng.random() < 0.1:
            left.add(leaver := rng.choice(present))
            engine.add(filter(None, [engine.native.abort(leaver)]))
        engine.step()
    for request in long_requests:
        assert_same(engine.answers[request.id], long_expected[request.id], built)
    for leaver in leavers:
        answer, whole = engine.answers[leaver.id], long_expected[leaver.id - 100]
        assert answer.finish in (Finish.ABORT, whole.finish)
        assert answer.tokens == whole.tokens[: len(answer.tokens)]
