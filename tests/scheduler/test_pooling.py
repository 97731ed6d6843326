"""Requests for a vector: hidden states are wanted in place of logits, within the one rule of scheduling."""

from __future__ import annotations

import pytest

from llmserve.errors import RequestError
from llmserve.request import Finish, Pooling, Request
from llmserve.scheduler import BlockPool, Pooled, Scheduler, StepPlan

from .harness import Engine, request, vector_of

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
each = pytest.mark.parametrize("pooling", Pooling)


def pooled(request_id: int, pooling: Pooling, prompt: tuple[int, ...] = PROMPT) -> Request:
    return request(request_id, prompt, pooling=pooling)


def step(engine: Engine) -> StepPlan:
    plan = engine.step()
    assert plan is not None
    return plan


def rows(plan: StepPlan) -> list[tuple[int, int, int, int]]:
    return [(chunk.start, len(chunk.tokens), chunk.logits, chunk.hidden) for chunk in plan.chunks]


def assert_whole(engine: Engine, req: Request) -> None:
    answer = engine.answers[req.id]
    assert (answer.finish, answer.tokens, answer.vector) == (Finish.STOP, [], vector_of(req))


@each
def test_it_ends_with_its_prompt(pooling: Pooling) -> None:
    engine, req = Engine(), pooled(0, pooling)
    engine.add(req, request(1, PROMPT[::-1], 2))
    assert rows(step(engine)) == [(0, 10, 0, 10 if pooling is Pooling.MEAN else 1), (0, 10, 1, 0)]
    assert rows(step(engine)) == [(10, 1, 1, 0)]
    assert_whole(engine, req)


@each
@pytest.mark.parametrize("budget", [1, 3, 4, 7, 10])
def test_chunks_do_not_show_and_are_not_bounded_as_logits_are(pooling: Pooling, budget: int) -> None:
    engine, req = Engine(max_num_batched_tokens=budget, max_prompt_logits=1), pooled(0, pooling)
    engine.add(req)
    sizes = []
    while engine.answers[0].finish is None:
        sizes.append(step(engine).num_tokens)
    assert sizes == [min(budget, 10 - at) for at in range(0, 10, budget)]
    assert_whole(engine, req)


@each
def test_a_prompt_of_one_token(pooling: Pooling) -> None:
    engine, req = Engine(), pooled(0, pooling, (5,))
    engine.add(req)
    assert rows(step(engine)) == [(0, 1, 0, 1)]
    assert_whole(engine, req)


def test_only_the_last_positions_state_can_do_without_the_others() -> None:
    engine = Engine(block_size=4)
    engine.add(request(0, PROMPT, 1))
    engine.run()
    for i, pooling in enumerate(Pooling, 1):
        engine.add(pooled(i, pooling))
        engine.run()
        assert_whole(engine, pooled(i, pooling))
        assert engine.answers[i].cached_tokens == (8 if pooling is Pooling.LAST else 0)
    assert engine.scheduler.counters.prefix_queries == 20


@each
def test_it_fills_the_cache(pooling: Pooling) -> None:
    engine = Engine(block_size=4)
    engine.add(pooled(0, pooling))
    engine.run()
    engine.add(request(1, PROMPT, 1))
    assert engine.run()[1].cached_tokens == 8


@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_pooled_already_is_not_pooled_again_after_a_preemption(ahead: bool) -> None:
    """It is pushed out in the middle, by those before it, and then takes from the cache what it published."""
    engine = Engine(num_blocks=8, block_size=4, max_num_batched_tokens=6, ahead=ahead)
    engine.add(request(0, (1, 2), 14), request(1, (3, 4), 14))
    engine.step()
    req = pooled(2, Pooling.MEAN, (*PROMPT, 1, 2, 3, 4))
    engine.add(req)
    engine.run()
    assert_whole(engine, req)


@each
def test_a_prompt_as_long_as_the_context_is_possible_and_a_longer_one_is_not(pooling: Pooling) -> None:
    engine = Engine(max_model_len=10)
    engine.add(pooled(0, pooling))
    engine.run()
    assert_whole(engine, pooled(0, pooling))
    with pytest.raises(RequestError, match="at most 10"):
        engine.add(pooled(1, pooling, (*PROMPT, 1)))


@each
def test_bad_numbers_end_it_and_nobody_finds_their_prefix(pooling: Pooling) -> None:
    engine = Engine(block_size=4, max_num_batched_tokens=8)
    engine.faults[0, 0] = "Not numbers."
    engine.add(pooled(0, pooling))
    engine.run()
    assert (engine.answers[0].finish, engine.answers[0].error) == (Finish.ERROR, "Not numbers.")
    engine.add(request(1, PROMPT, 1))
    assert engine.run()[1].cached_tokens == 0


def test_it_turns_as_a_sequence_that_ends_with_its_prompt() -> None:
    scheduler = Scheduler(
        BlockPool(16, 4), max_num_seqs=2, max_num_batched_tokens=32, max_model_len=32, max_prompt_logits=0,
        variant_of=lambda prompt, limit: int(limit > 10),
    )  # fmt: skip
    scheduler.add(pooled(0, Pooling.LAST))
    scheduler.add(request(1, PROMPT, 1))
    plan = scheduler.schedule()
    assert plan is not None
    assert [chunk.variant for chunk in plan.chunks] == [0, 1]


def test_update_wants_one_item_for_each_that_pools() -> None:
    scheduler = Engine().scheduler
    scheduler.add(pooled(0, Pooling.MEAN))
    plan = scheduler.schedule()
    assert plan is not None
    for wrong in ([], [Pooled(), Pooled()]):
        with pytest.raises(ValueError, match="1 pooled"):
            scheduler.update(plan, [], wrong)
    [event] = scheduler.update(plan, [], [Pooled(b"v")])
    assert (event.token, event.finish, event.vector) == (None, Finish.STOP, b"v")
    assert not scheduler.has_work
