"""Log-probabilities of prompts: one more kind of logits that are wanted, within the one rule of scheduling."""

from __future__ import annotations

import pytest

from llmserve.request import Finish, TokenEvent, TokenLogprobs
from llmserve.scheduler import BlockPool, Sampled, Scheduler, StepPlan

from .fake_model import foretold, reference
from .harness import Engine, request

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def told(engine: Engine, request_id: int) -> list[int]:
    return [int(logprobs.chosen) for logprobs in engine.answers[request_id].prompt_logprobs]


def step(engine: Engine) -> StepPlan:
    plan = engine.step()
    assert plan is not None
    return plan


def rows(plan: StepPlan) -> list[tuple[int, int, int]]:
    return [(chunk.start, len(chunk.tokens), chunk.logits) for chunk in plan.chunks]


def test_all_positions_want_logits() -> None:
    engine = Engine(max_prompt_logits=20)
    engine.add(request(0, PROMPT, 2, prompt_logprobs=0), request(1, PROMPT, 2))
    assert rows(step(engine)) == [(0, 10, 10), (0, 10, 1)]
    assert rows(step(engine)) == [(10, 1, 1), (10, 1, 1)]
    assert told(engine, 0) == foretold(PROMPT)
    assert told(engine, 1) == []
    assert engine.answers[0].tokens == engine.answers[1].tokens == reference(PROMPT, 2)


def test_a_prompt_of_one_token_has_none() -> None:
    engine = Engine()
    engine.add(request(0, (5,), 1, prompt_logprobs=0))
    assert rows(step(engine)) == [(0, 1, 1)]
    assert told(engine, 0) == []
    assert engine.answers[0].finish is Finish.LENGTH


@pytest.mark.parametrize("limit", range(12))
def test_a_step_has_no_more_logits_than_it_may(limit: int) -> None:
    engine = Engine(max_prompt_logits=limit)
    engine.add(request(0, PROMPT, 1, prompt_logprobs=0))
    sizes = []
    while engine.answers[0].finish is None:
        plan = step(engine)
        assert plan.num_logits == plan.num_tokens <= 1 + limit
        sizes.append(plan.num_tokens)
    assert sizes == [min(1 + limit, 10 - at) for at in range(0, 10, 1 + limit)]
    assert told(engine, 0) == foretold(PROMPT)


def test_prompts_share_what_a_step_may_have_and_nobody_overtakes() -> None:
    engine = Engine(max_prompt_logits=12)
    engine.add(*(request(i, PROMPT, 3, prompt_logprobs=0) for i in range(2)), request(2, PROMPT[::-1], 3))
    assert rows(step(engine)) == [(0, 10, 10), (0, 4, 4)]
    # The second is behind: the third, which wants none, waits for it all the same.
    assert rows(step(engine)) == [(10, 1, 1), (4, 6, 6), (0, 10, 1)]
    engine.run()
    assert told(engine, 0) == told(engine, 1) == foretold(PROMPT)


def test_no_decode_waits_for_them() -> None:
    engine = Engine(max_prompt_logits=2)
    engine.add(request(0, (1, 2), 8))
    engine.step()
    engine.add(request(1, PROMPT, 1, prompt_logprobs=0))
    for count in range(2, 6):
        engine.step()
        assert len(engine.answers[0].tokens) == count


def test_the_cache_is_not_read_but_filled() -> None:
    engine = Engine(block_size=4)
    for i in range(2):
        engine.add(request(i, PROMPT, 1, prompt_logprobs=0))
        engine.run()
        assert told(engine, i) == foretold(PROMPT)
        assert engine.answers[i].cached_tokens == 0
    assert engine.scheduler.counters.prefix_queries == 0
    engine.add(request(2, PROMPT, 1))
    engine.run()
    assert engine.answers[2].cached_tokens == 8


def test_after_a_preemption_nothing_is_told_twice() -> None:
    """The younger is thrown out in the middle of its prompt; with a cache it computes less of that again."""
    computed, long = [], PROMPT * 2
    for caching in (False, True):
        engine = Engine(8, 4, max_num_seqs=2, max_model_len=24, max_prompt_logits=0, prefix_caching=caching)
        engine.add(request(0, (1, 2, 3), 21))
        engine.step()
        engine.add(request(1, long, 2, prompt_logprobs=0))
        while not engine.scheduler.counters.preemptions:
            step(engine)
        assert 0 < len(told(engine, 1)) < len(long) - 1
        engine.run()
        assert told(engine, 1) == foretold(long)
        assert engine.answers[1].tokens == reference(long, 2)
        assert engine.answers[1].cached_tokens == 0
        computed.append(engine.scheduler.counters.scheduled_tokens)
    assert computed[0] > computed[1]


def test_a_row_that_is_no_numbers_ends_its_request_and_only_that() -> None:
    engine = Engine(block_size=4)
    engine.add(request(0, PROMPT, 2, prompt_logprobs=0), request(1, PROMPT[:5], 2, prompt_logprobs=0))
    engine.faults[0, -3] = "The logits are not finite."
    engine.run()
    assert (engine.answers[0].finish, engine.answers[0].tokens) == (Finish.ERROR, [])
    assert (engine.answers[1].finish, told(engine, 1)) == (Finish.LENGTH, foretold(PROMPT[:5]))
    engine.add(request(2, PROMPT, 1))
    engine.run()
    assert engine.answers[2].cached_tokens == 4, "what the second left; nothing of the first"


def test_they_travel_in_order_and_the_last_with_the_first_token() -> None:
    scheduler = Scheduler(
        BlockPool(8, 4), max_num_seqs=1, max_num_batched_tokens=8, max_model_len=20, max_prompt_logits=2
    )
    scheduler.add(request(0, (5, 6, 7, 8, 9), 5, prompt_logprobs=0))
    own = [TokenLogprobs(-float(i), (), i) for i in range(1, 6)]
    for given, event in (
        ([(6, 1), (7, 2), (8, 3)], TokenEvent(0, None, prompt_logprobs=(own[0], own[1], own[2]))),
        ([(9, 4), (3, 5)], TokenEvent(0, 3, logprobs=own[4], prompt_logprobs=(own[3],))),
    ):
        plan = scheduler.schedule()
        assert plan is not None
        assert [position for _, position in scheduler.wanted(plan)] == [at for _, at in given]
        assert scheduler.update(plan, [Sampled(token, own[at - 1]) for token, at in given]) == [event]
