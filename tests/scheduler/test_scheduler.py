"""The rules one by one: who is accepted, who runs, who waits, who is pushed out, and how each ends."""

from __future__ import annotations

import pytest

from llmserve.errors import RequestError
from llmserve.request import Finish, TokenEvent, TokenLogprobs
from llmserve.scheduler import BlockPool, Sampled, Scheduler, Sequence, StepPlan
from tests.instructions import instructions

from .fake_model import reference
from .harness import Engine, request
from .invariants import running, waiting


def prompt(length: int, first: int = 1) -> tuple[int, ...]:
    return tuple(range(first, first + length))


def step(engine: Engine) -> StepPlan:
    plan = engine.step()
    assert plan is not None
    return plan


def running_ids(engine: Engine) -> list[int]:
    return [seq.request.id for seq in running(engine.scheduler)]


def waiting_ids(engine: Engine) -> list[int]:
    return [seq.request.id for seq in waiting(engine.scheduler)]


# --- accepting ---


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="empty") as caught:
        Engine().add(request(0, ()))
    assert caught.value.param == "prompt"


def test_a_prompt_must_leave_room_for_one_token() -> None:
    engine = Engine(max_model_len=10)
    with pytest.raises(RequestError, match=r"\b10 tokens.*\b10 tokens") as caught:
        engine.add(request(0, prompt(10)))
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    engine.add(request(0, prompt(9), max_tokens=5))
    assert engine.run()[0].tokens == reference(prompt(9), 1)


def test_what_the_pool_can_never_hold_is_refused() -> None:
    engine = Engine(num_blocks=2, block_size=4)  # 8 tokens; a last token needs no KV
    with pytest.raises(RequestError, match=r"\b5 tokens.*max_tokens 5\b.*\b9 tokens.*\b8;") as caught:
        engine.add(request(0, prompt(5), max_tokens=5))
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")
    with pytest.raises(RequestError) as caught:
        engine.add(request(0, prompt(8), max_tokens=2))
    assert caught.value.param == "max_tokens"  # this prompt could be served
    with pytest.raises(RequestError) as caught:
        engine.add(request(0, prompt(9), max_tokens=1))
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    assert not engine.scheduler.has_work
    engine.add(request(0, prompt(5), max_tokens=4), request(1, prompt(8), max_tokens=1))
    answers = engine.run()
    assert answers[0].tokens == reference(prompt(5), 4)
    assert answers[1].tokens == reference(prompt(8), 1)


def test_max_tokens_beyond_the_model_length_does_not_count_against_the_pool() -> None:
    engine = Engine(num_blocks=2, block_size=4, max_model_len=9)
    engine.add(request(0, prompt(5), max_tokens=1000))
    answer = engine.run()[0]
    assert (answer.tokens, answer.finish) == (reference(prompt(5), 4), Finish.LENGTH)


def test_an_id_is_unique_while_it_lives() -> None:
    engine = Engine(max_num_seqs=1)
    engine.add(request(0, prompt(3)), request(1, prompt(3)))
    engine.step()
    for request_id in (0, 1):
        with pytest.raises(RequestError, match=f"id {request_id} "):
            engine.scheduler.add(request(request_id, prompt(3)))
    engine.run()
    engine.scheduler.add(request(0, prompt(3)))


@pytest.mark.parametrize(
    "name, least",
    [("max_num_seqs", 1), ("max_num_batched_tokens", 1), ("max_model_len", 1), ("max_prompt_logits", 0)],
)
def test_limits_are_positive(name: str, least: int) -> None:
    limits = {"max_num_seqs": 1, "max_num_batched_tokens": 1, "max_model_len": 1, "max_prompt_logits": 1}
    limits[name] = least - 1
    with pytest.raises(ValueError, match=name):
        Scheduler(BlockPool(1, 1), **limits)


# --- one step ---


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    engine = Engine(max_num_batched_tokens=4)
    engine.add(request(0, prompt(10), max_tokens=2))
    chunks = [step(engine).chunks[0] for _ in range(4)]
    assert [(c.start, len(c.tokens), c.logits) for c in chunks] == [(0, 4, 0), (4, 4, 0), (8, 2, 1), (10, 1, 1)]
    # Blocks for the whole prompt are announced with its first chunk.
    assert [(c.first_block, len(c.new_blocks)) for c in chunks] == [(0, 3), (3, 0), (3, 0), (3, 0)]


def test_one_step_takes_in_as_many_as_fit() -> None:
    engine = Engine(max_num_batched_tokens=10, max_num_seqs=3)
    engine.add(*(request(i, prompt(4, i)) for i in range(5)))
    assert [len(c.tokens) for c in step(engine).chunks] == [4, 4, 2]
    assert [len(c.tokens) for c in step(engine).chunks] == [1, 1, 2]
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (3, 2)


def test_without_work_there_is_no_plan() -> None:
    engine = Engine()
    assert engine.scheduler.schedule() is None
    assert not engine.scheduler.has_work
    engine.add(request(0, prompt(3)))
    assert engine.scheduler.has_work
    engine.run()
    assert engine.scheduler.schedule() is None


@pytest.mark.parametrize("budget", [5, 6, 8, 64])
def test_no_decode_waits_for_a_long_prompt(budget: int) -> None:
    """Four decode, then long prompts come: each of the four gets one token in every step until it ends."""
    engine = Engine(num_blocks=200, max_num_batched_tokens=budget, max_model_len=200)
    engine.add(*(request(i, prompt(3, i), max_tokens=30) for i in range(4)))
    while not all(engine.answers[i].tokens for i in range(4)):
        engine.step()
    engine.add(*(request(10 + i, prompt(100, i), max_tokens=5) for i in range(3)))
    while any(engine.answers[i].finish is None for i in range(4)):
        before = {i: len(engine.answers[i].tokens) for i in range(4) if engine.answers[i].finish is None}
        plan = step(engine)
        assert all(len(engine.answers[i].tokens) == count + 1 for i, count in before.items())
        assert plan.num_tokens == budget or engine.answers[12].tokens  # and the prompts get all the rest
    engine.run()


def test_a_budget_used_up_by_decodes_admits_nobody() -> None:
    engine = Engine(max_num_batched_tokens=2)
    engine.add(*(request(i, prompt(1, i), max_tokens=4) for i in range(3)))
    for _ in range(4):
        assert [c.row for c in step(engine).chunks] == [0, 1]
    assert running_ids(engine) == []
    engine.run()


def test_requests_may_be_added_while_a_plan_is_in_flight() -> None:
    engine = Engine()
    engine.add(request(0, prompt(3), max_tokens=1))
    plan = engine.scheduler.schedule()
    assert plan is not None
    engine.add(request(1, prompt(3), max_tokens=1))
    assert [(seq.request.id, position) for seq, position in engine.scheduler.wanted(plan)] == [(0, 3)]
    assert engine.scheduler.update(plan, [Sampled(7)]) == [TokenEvent(0, 7, Finish.LENGTH)]
    assert waiting_ids(engine) == [1]


# --- order ---


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    engine = Engine(num_blocks=8, block_size=4)
    engine.add(request(0, prompt(16), max_tokens=3))
    engine.step()
    engine.add(request(1, prompt(20, 30), max_tokens=3), request(2, prompt(1, 60), max_tokens=3))
    assert len(step(engine).chunks) == 1  # 2 would fit, but 1 does not
    engine.run()
    finished = list(engine.answers)
    assert finished == [0, 1, 2]


def test_admission_leaves_a_block_for_each_that_runs() -> None:
    engine = Engine(num_blocks=8, block_size=4)
    engine.add(request(0, prompt(4)), request(1, prompt(16, 20)))  # leaves 7, then 3 >= 2
    engine.add(request(2, prompt(1, 50)))  # would leave 2 < 3
    engine.step()
    assert (running_ids(engine), waiting_ids(engine)) == ([0, 1], [2])
    engine = Engine(num_blocks=9, block_size=4)
    engine.add(request(0, prompt(4)), request(1, prompt(16, 20)), request(2, prompt(1, 50)))  # leaves 3 >= 3
    engine.step()
    assert running_ids(engine) == [0, 1, 2]


def test_shared_blocks_count_once_for_admission() -> None:
    engine = Engine(num_blocks=8, block_size=4)
    engine.add(request(0, prompt(16), max_tokens=9))
    engine.step()
    engine.add(request(1, prompt(17), max_tokens=9))  # four blocks are shared, so it needs only one
    engine.step()
    assert running_ids(engine) == [0, 1]
    engine = Engine(num_blocks=8, block_size=4)
    engine.add(request(0, prompt(16), max_tokens=1))
    engine.run()
    engine.add(request(1, prompt(4, 30), max_tokens=9), request(2, prompt(17), max_tokens=9))
    engine.step()  # the four are idle: sharing them leaves 8 - 1 - 5 = 2 blocks, enough for two
    assert running_ids(engine) == [1, 2]
    engine.add(request(3, prompt(1, 50)))
    engine.step()
    assert waiting_ids(engine) == [3]


def test_alone_a_request_may_have_the_whole_pool() -> None:
    engine = Engine(num_blocks=4, block_size=4)
    engine.add(request(0, prompt(16), max_tokens=1))
    engine.step()
    assert engine.answers[0].finish is Finish.LENGTH


# --- preemption ---


def crowded() -> Engine:
    """Three decode in six blocks, and at some point that is too few."""
    engine = Engine(num_blocks=6, block_size=4, max_num_seqs=3, max_model_len=24)
    engine.add(*(request(i, prompt(3, 10 * i), max_tokens=20) for i in range(4)))
    while not engine.scheduler.counters.preemptions:
        engine.step()
    return engine


def test_the_youngest_is_preempted_and_waits_at_the_head() -> None:
    engine = crowded()
    assert (running_ids(engine), waiting_ids(engine)) == ([0, 1], [2, 3])
    assert engine.answers[2].tokens  # it had begun to answer


def test_nobody_is_admitted_in_the_step_that_preempts() -> None:
    """`Engine.step` checks it. Here it is tempting: both computed the same prompt side by side, so that the one pushed
    out finds the other's blocks in the cache and would need only one of its own."""
    engine = Engine(num_blocks=11, block_size=4, max_model_len=24)
    engine.add(request(0, prompt(16), max_tokens=8), request(1, prompt(16), max_tokens=8))
    engine.step()
    assert running_ids(engine) == [0, 1]
    while engine.pool.num_idle:
        engine.pool.take(1)  # somebody else's
    engine.scheduler.schedule()
    assert (running_ids(engine), waiting_ids(engine)) == ([0], [1])


def test_a_preempted_request_computes_again_what_it_generated_and_yields_the_same() -> None:
    engine = crowded()
    begun = list(engine.answers[2].tokens)
    seq = waiting(engine.scheduler)[0]
    assert seq.tokens == [*prompt(3, 20), *begun]
    answers = engine.run()
    for i in range(4):
        assert answers[i].tokens == reference(prompt(3, 10 * i), 20)
    assert answers[2].tokens[: len(begun)] == begun


def test_coming_back_is_cheap_while_the_blocks_are_still_there() -> None:
    # Two blocks each of 0 and 1 when 0 needs a third: 1 is pushed out, and one of its blocks is overwritten.
    engine = Engine(num_blocks=4, block_size=4, max_model_len=16)
    engine.add(request(0, prompt(4), max_tokens=6), request(1, prompt(4, 20), max_tokens=8))
    while not engine.scheduler.counters.preemptions:
        engine.step()
    assert waiting_ids(engine) == [1]
    plan = step(engine)
    while len(plan.chunks) == 1 and running_ids(engine) == [0]:
        plan = step(engine)
    assert plan.chunks[-1].start == 4  # not from 0
    assert engine.run()[1].cached_tokens == 0  # not found in the cache when it first came
    assert engine.scheduler.counters.prefix_hits == 0
    assert engine.scheduler.counters.prefix_queries == 8


# --- prefix cache ---


def test_cached_tokens_come_with_the_first_event_only() -> None:
    engine = Engine(block_size=4)
    engine.add(request(0, prompt(9), max_tokens=2))
    engine.run()
    engine.add(request(1, prompt(9), max_tokens=2), request(2, prompt(8), max_tokens=2))
    engine.run()
    assert engine.answers[0].cached_tokens == 0
    assert engine.answers[1].cached_tokens == 8
    assert engine.answers[2].cached_tokens == 4  # of eight tokens the last is always left to compute
    counters = engine.scheduler.counters
    assert (counters.prefix_queries, counters.prefix_hits) == (26, 12)


def test_generated_tokens_are_found_too() -> None:
    engine = Engine(block_size=4)
    engine.add(request(0, prompt(3), max_tokens=6))
    conversation = (*prompt(3), *engine.run()[0].tokens, 5)
    engine.add(request(1, conversation, max_tokens=1))
    assert engine.run()[1].cached_tokens == 8


def test_blocks_are_shared_only_once_they_are_computed() -> None:
    engine = Engine(block_size=4, max_num_batched_tokens=12)
    engine.add(*(request(i, prompt(9), max_tokens=3) for i in range(3)))
    assert [c.start for c in step(engine).chunks] == [0, 0]  # side by side: each computes its own
    assert [c.start for c in step(engine).chunks] == [9, 3, 8]  # the third comes later, and finds two blocks
    engine.run()


def test_without_prefix_caching_everything_is_computed() -> None:
    engine = Engine(prefix_caching=False)
    engine.add(request(0, prompt(9), max_tokens=2))
    engine.run()
    engine.add(request(1, prompt(9), max_tokens=2))
    answers = engine.run()
    assert answers[1].cached_tokens == 0
    assert answers[1].tokens == answers[0].tokens
    counters = engine.scheduler.counters
    assert (counters.prefix_queries, counters.prefix_hits, counters.scheduled_tokens) == (0, 0, 20)


# --- ends ---


def test_a_stop_token_ends_it_and_is_told() -> None:
    tokens = reference(prompt(5), 20)
    stop = tokens[4]
    first = tokens.index(stop)
    engine = Engine()
    engine.add(request(0, prompt(5), 20, frozenset({stop})))
    engine.add(request(1, prompt(5), 20, frozenset({stop}), min_tokens=first + 2))
    engine.add(request(2, prompt(5), first + 1, frozenset({stop})))  # also the last it may have: still a stop
    answers = engine.run()
    assert (answers[0].tokens, answers[0].finish) == (tokens[: first + 1], Finish.STOP)
    assert answers[1].tokens == tokens[: len(answers[1].tokens)]
    assert len(answers[1].tokens) > first + 1
    assert (answers[2].tokens, answers[2].finish) == (tokens[: first + 1], Finish.STOP)


def small(**limits: int) -> Scheduler:
    """A scheduler alone, for four tokens a block and eight a step."""
    defaults = {"max_num_seqs": 1, "max_num_batched_tokens": 8, "max_model_len": 20, "max_prompt_logits": 8}
    return Scheduler(BlockPool(8, 4), **{**defaults, **limits})


def test_min_tokens_counts_the_token_itself() -> None:
    scheduler = small()
    scheduler.add(request(0, prompt(3), 5, frozenset({9}), min_tokens=2))
    finishes = []
    for _ in range(2):
        plan = scheduler.schedule()
        assert plan is not None
        finishes += [event.finish for event in scheduler.update(plan, [Sampled(9)])]
    assert finishes == [None, Finish.STOP]


def test_log_probabilities_travel_with_their_token() -> None:
    scheduler = small()
    scheduler.add(request(0, prompt(3), 5))
    plan = scheduler.schedule()
    assert plan is not None
    logprobs = TokenLogprobs(-0.5, ((4, -0.5),), 1)
    assert scheduler.update(plan, [Sampled(4, logprobs)]) == [TokenEvent(0, 4, None, logprobs)]


def test_what_has_ended_holds_nothing() -> None:
    engine = Engine()
    engine.add(request(0, prompt(9), max_tokens=1))
    engine.step()
    assert engine.pool.usage == 0
    assert engine.scheduler.abort(0) is None


def test_a_sampling_error_ends_one_request_and_leaves_nothing_of_it_to_find() -> None:
    engine = Engine(block_size=4)
    engine.faults[0, 3] = "The logits are not finite."
    engine.add(request(0, prompt(9), max_tokens=9), request(1, prompt(9, 30), max_tokens=9))
    answers = engine.run()
    assert (answers[0].tokens, answers[0].finish) == (reference(prompt(9), 3), Finish.ERROR)
    assert answers[0].error == "The logits are not finite."
    assert (answers[1].tokens, answers[1].finish) == (reference(prompt(9, 30), 9), Finish.LENGTH)
    engine.add(request(2, prompt(9), max_tokens=9), request(3, prompt(9, 30), max_tokens=9))
    engine.run()
    assert engine.answers[2].cached_tokens == 0
    assert engine.answers[3].cached_tokens == 8


def test_abort_tells_cached_tokens_if_nothing_was_told_before() -> None:
    engine = Engine(block_size=4, max_num_batched_tokens=4)
    engine.add(request(0, prompt(9), max_tokens=1))
    engine.run()
    engine.add(request(1, prompt(20), max_tokens=9))
    assert engine.abort(1) == TokenEvent(1, None, Finish.ABORT)  # it never ran: nothing was looked up
    engine.add(request(2, prompt(20), max_tokens=9), request(3, prompt(20, 40), max_tokens=9))
    engine.step()
    assert engine.abort(2) == TokenEvent(2, None, Finish.ABORT, cached_tokens=8)
    while not engine.answers[3].tokens:
        engine.step()
    assert engine.abort(3) == TokenEvent(3, None, Finish.ABORT)
    assert engine.abort(3) is None
    assert engine.abort(77) is None
    engine.run()


def test_abort_of_a_preempted_request() -> None:
    engine = crowded()
    assert engine.abort(2) == TokenEvent(2, None, Finish.ABORT)
    answers = engine.run()
    for i in (0, 1, 3):
        assert answers[i].tokens == reference(prompt(3, 10 * i), 20)


def test_abort_all_names_the_reason() -> None:
    engine = Engine(max_num_seqs=1)
    engine.add(request(0, prompt(3)), request(1, prompt(3)))
    engine.step()
    assert engine.scheduler.abort_all(Finish.ABORT) == [
        TokenEvent(0, None, Finish.ABORT),
        TokenEvent(1, None, Finish.ABORT),
    ]
    assert engine.scheduler.abort_all(Finish.ABORT) == []
    assert not engine.scheduler.has_work


# --- misuse ---


def test_between_schedule_and_update_the_plan_is_in_flight() -> None:
    engine = Engine()
    engine.add(request(0, prompt(3)), request(1, prompt(3)))
    plan = engine.scheduler.schedule()
    assert plan is not None
    with pytest.raises(RuntimeError, match="in flight"):
        engine.scheduler.abort(0)
    with pytest.raises(RuntimeError, match="in flight"):
        engine.scheduler.schedule()
    with pytest.raises(ValueError, match="wants 2 tokens, got 1"):
        engine.scheduler.update(plan, [Sampled(1)])
    assert len(engine.scheduler.update(plan, [Sampled(1), Sampled(2)])) == 2
    for late in (engine.scheduler.wanted, lambda plan: engine.scheduler.update(plan, [])):
        with pytest.raises(RuntimeError, match="not the one in flight"):
            late(plan)


def test_a_plan_forgotten_by_abort_all_cannot_be_updated() -> None:
    engine = Engine()
    engine.add(request(0, prompt(3)))
    plan = engine.scheduler.schedule()
    assert plan is not None
    engine.scheduler.abort_all(Finish.ERROR, "A rank died.")
    with pytest.raises(RuntimeError, match="not the one in flight"):
        engine.scheduler.update(plan, [Sampled(1)])


# --- cost ---


def test_a_long_queue_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """To come, to be computed beside it and to leave from its middle costs the same to the last instruction."""
    # What walks without the interpreter's help compares (`in`, `remove`, `index`): so that is some instructions, too.
    monkeypatch.setattr(Sequence, "__eq__", lambda self, other: self is other)

    def costs(waiting: int) -> list[int]:
        scheduler = small(max_num_seqs=2, max_model_len=600)
        for request_id in range(2 * waiting):
            scheduler.add(request(request_id, prompt(3), max_tokens=9))

        def steps() -> None:
            for _ in range(10):
                plan = scheduler.schedule()
                assert plan is not None
                scheduler.prepare()
                scheduler.update(plan, [Sampled(1)] * plan.num_logits)

        def leaves() -> None:
            assert scheduler.abort(waiting) is not None

        came = instructions(lambda: scheduler.add(request(2 * waiting, prompt(3))))
        return [came, instructions(steps), instructions(leaves)]

    few = costs(10)
    assert min(few) > 0
    assert costs(1000) == few
