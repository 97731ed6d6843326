"""Each check is shown to fail on a state broken by hand: a check that cannot fail would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmserve.request import Finish, TokenEvent
from llmserve.scheduler import Chunk, Sequence, StepPlan
from llmserve.scheduler.plan import UNKNOWN

from . import invariants
from .fake_model import FakeModel
from .harness import Answer, Engine, request


def engine() -> Engine:
    """Two decode behind a shared first block, a third is in its prompt, a fourth and a fifth wait; some blocks idle."""
    built = Engine(num_blocks=20, block_size=2, max_num_seqs=3, max_num_batched_tokens=6, max_model_len=30)
    built.add(request(0, (1, 2, 3), 20))
    built.step()
    built.add(request(1, (1, 2, 3, 4), 20), request(2, tuple(range(13)), 4), request(3, (9,)), request(4, (9,)))
    built.step()
    built.step()
    first, second, third = invariants.running(built.scheduler)
    assert first.blocks[0] == second.blocks[0]
    assert [len(seq.tokens) - seq.computed for seq in (first, second)] == [1, 1]
    assert len(third.tokens) - third.computed > 1
    assert built.scheduler.num_waiting == 2
    return built


def running(e: Engine, index: int) -> Sequence:
    return invariants.running(e.scheduler)[index]


def lose_a_reference(e: Engine) -> None:
    e.pool._refs[running(e, 0).blocks[0]] -= 1


def hold_a_block_twice(e: Engine) -> None:
    running(e, 0).blocks.append(running(e, 0).blocks[0])


def make_a_used_block_idle(e: Engine) -> None:
    e.pool._idle[running(e, 0).blocks[0]] = None


def lose_an_idle_block(e: Engine) -> None:
    e.pool._idle.popitem()


def queue_a_prefix_before_a_plain_block(e: Engine) -> None:
    block = next(iter(e.pool._idle))
    e.pool._key_of[block], e.pool._block_of[b"k"] = b"k", block


def forget_half_of_a_key(e: Engine) -> None:
    e.pool._block_of.popitem()


def publish_without_caching(e: Engine) -> None:
    e.pool.prefix_caching = False


def publish_too_early(e: Engine) -> None:
    seq = running(e, 2)
    index = seq.computed // 2
    e.pool.publish(seq.blocks[index], seq.key(index, 2))


def publish_under_a_wrong_key(e: Engine) -> None:
    block = running(e, 0).blocks[0]
    e.pool.withdraw([block])
    e.pool.publish(block, b"of other tokens")


def give_two_the_same_row(e: Engine) -> None:
    running(e, 0).row = running(e, 1).row


def lose_a_row(e: Engine) -> None:
    victim = running(e, 2)
    e.scheduler._running.remove(victim)
    del e.scheduler._alive[victim.id]
    e.pool.release(victim.blocks)


def run_more_than_the_budget(e: Engine) -> None:
    e.scheduler.max_num_batched_tokens = 2


def let_a_waiting_one_own_blocks(e: Engine) -> None:
    invariants.waiting(e.scheduler)[0].blocks = e.pool.take(1)


def let_a_waiting_one_be_computed(e: Engine) -> None:
    invariants.waiting(e.scheduler)[0].computed = 1


def overtake_in_the_queue(e: Engine) -> None:
    e.scheduler._waiting._lines[0].move_to_end(4, last=False)


def overtake_by_running(e: Engine) -> None:
    seq, other = running(e, 2), e.scheduler._alive[4]
    e.scheduler._waiting.remove(other)
    seq.request, other.request = other.request, seq.request
    seq.id, other.id = other.id, seq.id
    e.scheduler._alive |= {seq.id: seq, other.id: other}
    e.scheduler._waiting.put_back(other)


def run_out_of_order(e: Engine) -> None:
    e.scheduler._running.reverse()


def miscount_who_waits(e: Engine) -> None:
    e.scheduler._waiting._count += 1


def let_the_dead_live(e: Engine) -> None:
    running(e, 1).ended = True


def remember_a_deadline(e: Engine) -> None:
    e.scheduler._deadlines.set(99, 1.0)


def share_with_another_salt(e: Engine) -> None:
    running(e, 1).request = replace(running(e, 1).request, cache_salt="other")


def file_under_another_id(e: Engine) -> None:
    e.scheduler._alive[7] = e.scheduler._alive.pop(4)


def let_another_fall_behind(e: Engine) -> None:
    running(e, 1).computed -= 1


def wait_for_a_token_of_nowhere(e: Engine) -> None:
    running(e, 1).tokens.append(UNKNOWN)


def compute_everything(e: Engine) -> None:
    running(e, 0).computed += 1


def miss_a_block(e: Engine) -> None:
    e.pool.release([running(e, 0).blocks.pop()])


def hoard_a_block(e: Engine) -> None:
    running(e, 0).blocks += e.pool.take(1)


def outlive_the_limit(e: Engine) -> None:
    running(e, 0).limit = 4


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lose_a_reference, "recount"),
        (hold_a_block_twice, "twice"),
        (make_a_used_block_idle, "not those without users"),
        (lose_an_idle_block, "not those without users"),
        (queue_a_prefix_before_a_plain_block, "before a block that nobody can find"),
        (forget_half_of_a_key, "disagree"),
        (publish_without_caching, "caching off"),
        (publish_too_early, "before its KV"),
        (publish_under_a_wrong_key, "other tokens"),
        (give_two_the_same_row, "two owners"),
        (lose_a_row, "row is lost"),
        (run_more_than_the_budget, "more run"),
        (let_a_waiting_one_own_blocks, "recount|owns something"),
        (let_a_waiting_one_be_computed, "owns something"),
        (overtake_in_the_queue, "out of order"),
        (overtake_by_running, "overtook|out of order"),
        (run_out_of_order, "out of order"),
        (miscount_who_waits, "counts other"),
        (let_the_dead_live, "alive and ended"),
        (remember_a_deadline, "deadline"),
        (share_with_another_salt, "other salts"),
        (file_under_another_id, "another id"),
        (let_another_fall_behind, "more than one is behind"),
        (wait_for_a_token_of_nowhere, "nothing will choose|is behind"),
        (compute_everything, "nothing left"),
        (miss_a_block, "do not fit"),
        (hoard_a_block, "do not fit"),
        (outlive_the_limit, "should have ended|more is planned"),
    ],
)
def test_a_broken_state_is_noticed(damage: Callable[[Engine], None], complaint: str) -> None:
    healthy = engine()
    healthy.check()
    damage(healthy)
    with pytest.raises(AssertionError, match=complaint):
        healthy.check()


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"tokens": tuple(range(50))}, "budget"),
        ({"row": 2}, "one chunk"),
        ({"tokens": ()}, "without tokens"),
        ({"start": 0}, "does not end"),
        ({"tokens": (99,)}, "other tokens"),
        ({"logits": 0}, "than are wanted"),
        ({"logits": 10}, "beyond their budget"),
        ({"new_blocks": (17,)}, "announced"),
    ],
)
def test_a_wrong_plan_is_noticed(change: dict, complaint: str) -> None:
    e = engine()
    plan = e.scheduler.schedule()
    assert plan is not None
    told = dict.fromkeys(range(5), 0)
    invariants.check_plan(e.scheduler, plan, told)
    wrong = StepPlan.of([plan.chunks[0]._replace(**change), *plan.chunks[1:]])
    with pytest.raises(AssertionError, match=complaint):
        invariants.check_plan(e.scheduler, wrong, told)


def test_a_sequence_left_out_is_noticed() -> None:
    e = engine()
    plan = e.scheduler.schedule()
    assert plan is not None
    with pytest.raises(AssertionError, match="one chunk"):
        invariants.check_plan(e.scheduler, StepPlan.of(plan.chunks[1:]), dict.fromkeys(range(5), 0))


def test_writing_where_others_may_read_is_noticed() -> None:
    e = engine()
    plan = e.scheduler.schedule()
    assert plan is not None
    seq = running(e, 0)
    block = seq.blocks[(seq.computed - 1) // 2]
    told = dict.fromkeys(range(5), 0)
    e.pool._refs[block] += 1
    with pytest.raises(AssertionError, match="shared"):
        invariants.check_plan(e.scheduler, plan, told)
    e.pool._refs[block] -= 1
    e.pool.publish(block, b"k")
    with pytest.raises(AssertionError, match="published"):
        invariants.check_plan(e.scheduler, plan, told)


@pytest.mark.parametrize(
    "chunks, complaint",
    [
        ([Chunk(0, 0, 1, (1,), (0,), 1)], "hole"),
        ([Chunk(0, 1, 0, (1,), (0,), 1)], "never written"),
        ([Chunk(0, 0, 0, (1,), (0,), 1), Chunk(1, 0, 0, (1,), (0,), 1)], "two rows write"),
        ([Chunk(0, 0, 0, (1,), (0,), 1), Chunk(1, 1, 0, (1,), (0,), 1)], "in this step"),
    ],
)
def test_the_fake_model_notices_a_plan_it_cannot_trust(chunks: list[Chunk], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        FakeModel(num_blocks=4, block_size=2, rows=2).execute(StepPlan.of(chunks))


@pytest.mark.parametrize(
    "event",
    [
        TokenEvent(0, 1),
        TokenEvent(0, None, Finish.ABORT),
    ],
)
def test_the_client_notices_an_event_after_the_final_one(event: TokenEvent) -> None:
    answer = Answer()
    answer.receive(TokenEvent(0, 1, Finish.STOP))
    with pytest.raises(AssertionError, match="after the final"):
        answer.receive(event)


def test_the_client_notices_cached_tokens_told_twice() -> None:
    answer = Answer()
    answer.receive(TokenEvent(0, 1, cached_tokens=4))
    with pytest.raises(AssertionError, match="told once"):
        answer.receive(TokenEvent(0, 1, cached_tokens=4))
