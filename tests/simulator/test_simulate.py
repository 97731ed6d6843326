"""Timelines worked out by hand, and what must hold for any trace and policy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from simulator.policy import Policy

from llmserve.scheduler import Scheduler

from .cases import ALL, CACHED, CHUNKED, CONTINUOUS, STATIC, cost, machine, mix, run, times, trace

THREE = trace((0, 4, 3), (0, 4, 1), (0, 4, 2))
"""Two places on the machine; the second request leaves its place after one step."""


def test_a_static_batchs_place_is_not_used_again_before_the_batch_has_ended() -> None:
    done = run(THREE, STATIC)
    assert times(done.first) == [1, 1, 4]
    assert times(done.ended) == [3, 1, 5]
    assert list(done.steps.running) == [2, 1, 1, 1, 1]


def test_a_place_in_flight_is_used_at_the_next_step() -> None:
    done = run(THREE, CONTINUOUS)
    assert times(done.first) == [1, 1, 2]
    assert times(done.ended) == [3, 1, 3]
    assert list(done.steps.running) == [2, 2, 2]


def test_a_static_batch_is_of_those_who_have_come_and_in_that_order() -> None:
    """One alone at 10; those who come meanwhile make the next batches."""
    done = run(trace((10, 4, 4), (11, 4, 1), (12, 4, 2), (13, 4, 1)), STATIC)
    assert times(done.first) == [11, 15, 15, 17]
    assert times(done.ended) == [14, 15, 16, 17]


def test_a_static_batch_is_no_larger_than_memory() -> None:
    """Prompts of two blocks and one more for each: two of them fill six blocks of seven, and the third has to wait."""
    done = run(trace((0, 8, 3), (0, 8, 1), (0, 8, 2)), STATIC, machine(seqs=8, blocks=7))
    assert times(done.first) == [1, 1, 4]
    alone = run(trace((0, 20, 3), (0, 8, 1)), STATIC, machine(seqs=8, blocks=6))
    assert times(alone.first) == [1, 4]


def test_whoever_comes_during_a_step_waits_for_its_end() -> None:
    done = run(trace((0, 4, 2), (0.5, 4, 1)), CONTINUOUS)
    assert times(done.first) == [1, 2]


def test_an_idle_machine_starts_at_the_next_arrival() -> None:
    done = run(trace((2.5, 4, 1), (7.25, 4, 2)), CONTINUOUS)
    assert times(done.first) == [3.5, 8.25]
    assert times(done.ended) == [3.5, 9.25]


def test_the_cost_of_every_step_by_hand() -> None:
    """A prompt of 14 in steps of 12, then a token; in the second step the other request's prompt joins in."""
    model = cost(fixed=1000, token=100, knee=4, pair=1, context=10, sequence=7)
    done = run(trace((0, 14, 2), (1, 3, 1)), CHUNKED, machine(model))
    assert list(done.steps.tokens) == [12, 2 + 3, 1]
    assert list(done.steps.generated) == [0, 2, 1]
    assert times(done.steps.seconds) == [
        1000 + 100 * 12 + (12 * 13 // 2) + 10 * 12 + 7 * 0,
        1000 + 100 * 5 + (13 + 14 + 1 + 2 + 3) + 10 * (14 + 3) + 7 * 2,
        1000 + 100 * 4 + 15 + 10 * 15 + 7 * 1,
    ]
    assert times(done.steps.ends) == times(np.cumsum(done.steps.seconds))


def test_what_the_cache_holds_is_not_computed_again() -> None:
    """Eight common tokens are two blocks of four, and the second request has three of its own."""
    requests = trace((0, 10, 1), (5, 11, 1), prefix=8)
    assert list(run(requests, CACHED).steps.tokens) == [10, 3]
    assert list(run(requests, CHUNKED).steps.tokens) == [10, 11]
    assert (run(requests, CACHED).prefix_hits, run(requests, CACHED).prefix_queries) == (8, 21)


def test_memory_that_runs_out_preempts() -> None:
    """Three blocks of four tokens: two sequences of 4 + 8 tokens cannot both grow to their ends."""
    done = run(trace((0, 3, 8), (0, 3, 8)), CONTINUOUS, machine(blocks=4))
    assert done.preemptions == 1
    assert max(done.steps.kv_usage) == 1
    assert times(done.ended)[0] == 8  # the older one is not disturbed
    assert times(done.ended)[1] > 8


@pytest.mark.parametrize("blocks", [80, 1000], ids=["little memory", "enough memory"])
@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_every_request_ends_once_and_tokens_add_up(
    policy: Policy, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    update = Scheduler.update

    def counted(scheduler, plan, sampled):  # type: ignore[no-untyped-def]
        events = update(scheduler, plan, sampled)
        tokens.update(event.request_id for event in events)
        ends.update(event.request_id for event in events if event.finish)
        return events

    monkeypatch.setattr(Scheduler, "update", counted)
    requests = mix(rate=20)
    done = run(requests, policy, machine(cost(fixed=0.01, token=0.005), seqs=16, blocks=blocks))
    assert ends == Counter(range(len(requests)))
    assert [tokens[index] for index in range(len(requests))] == requests.outputs.tolist()
    assert sum(done.steps.generated) == requests.outputs.sum()
    first, ended = np.frombuffer(done.first), np.frombuffer(done.ended)
    assert (first > requests.arrivals).all()
    assert ((ended > first) == (requests.outputs > 1)).all()
    assert done.steps.ends[-1] == ended.max()
    assert (done.preemptions > 0) == (blocks == 80)
    # All tokens but each answer's last go through the matrices, unless the cache had them; preempted ones again.
    computed = sum(done.steps.tokens) + done.prefix_hits
    needed = (requests.prompts + requests.outputs - 1).sum()
    assert computed == needed if not done.preemptions else computed > needed


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
def test_the_same_trace_runs_the_same(policy: Policy) -> None:
    first, second = (run(mix(seed=5), policy, machine(seqs=8, blocks=100)) for _ in range(2))
    assert (first.first, first.ended, first.steps) == (second.first, second.ended, second.steps)
    assert first.first != run(mix(seed=6), policy, machine(seqs=8, blocks=100)).first


def test_waiting_outside_of_the_scheduler_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In flight, only `max_num_seqs` wait in the scheduler; with all of them in it every time is the same."""
    requests, on = mix(rate=50), machine(cost(fixed=0.01, token=0.005), seqs=6, blocks=150)
    few = run(requests, CHUNKED, on)
    monkeypatch.setattr(Scheduler, "num_waiting", 0)
    every = run(requests, CHUNKED, on)
    assert (few.first, few.ended) == (every.first, every.ended)
