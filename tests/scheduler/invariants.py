"""What must hold of a scheduler, each recounted from scratch. `test_invariants.py` shows that each can fail."""

from __future__ import annotations

from collections.abc import Iterable

from llmserve.scheduler import BlockPool, Scheduler, Sequence, StepPlan
from llmserve.scheduler.block_pool import block_key
from llmserve.scheduler.sequence import NO_ROW


def running(scheduler: Scheduler) -> list[Sequence]:
    return list(scheduler._running.values())


def waiting(scheduler: Scheduler) -> list[Sequence]:
    return list(scheduler._waiting.values())


def check_references(pool: BlockPool, owners: Iterable[Sequence]) -> None:
    counted = [0] * pool.num_blocks
    for seq in owners:
        assert len(set(seq.blocks)) == len(seq.blocks), "a sequence holds a block twice"
        for block in seq.blocks:
            counted[block] += 1
    assert pool._refs == counted, "reference counts differ from a recount"


def check_idle(pool: BlockPool) -> None:
    unused = {block for block, refs in enumerate(pool._refs) if refs == 0}
    assert set(pool._idle) == unused, "the idle blocks are not those without users"
    assert pool.num_idle == len(unused)
    assert abs(pool.usage - (pool.num_blocks - len(unused)) / pool.num_blocks) < 1e-9
    keyed = [block in pool._key_of for block in pool._idle]
    assert keyed == sorted(keyed), "a cached prefix would be reused before a block that nobody can find"


def check_keys(pool: BlockPool, owners: Iterable[Sequence]) -> None:
    assert pool._key_of == {block: key for key, block in pool._block_of.items()}, "keys and blocks disagree"
    assert pool.prefix_caching or not pool._key_of, "published with prefix caching off"
    for seq in owners:
        parent = b""
        for index, block in enumerate(seq.blocks):
            parent = block_key(parent, seq.tokens[index * pool.block_size : (index + 1) * pool.block_size])
            if block in pool._key_of:
                assert (index + 1) * pool.block_size <= seq.computed, "published before its KV was computed"
                assert pool._key_of[block] == parent, "published under the key of other tokens"


def check_rows(scheduler: Scheduler, max_num_seqs: int) -> None:
    rows = [seq.row for seq in running(scheduler)] + scheduler._free_rows
    assert sorted(rows) == list(range(max_num_seqs)), "a row is lost, or has two owners"
    assert len(running(scheduler)) <= scheduler.max_num_batched_tokens, "more run than can advance in one step"


def check_waiting(scheduler: Scheduler) -> None:
    for seq in waiting(scheduler):
        assert (seq.row, seq.computed, seq.blocks) == (NO_ROW, 0, []), "a waiting sequence owns something"


def check_order(scheduler: Scheduler, arrivals: list[int]) -> None:
    """`arrivals`: request ids in the order of `add`."""
    place = {request_id: index for index, request_id in enumerate(arrivals)}
    ids = [seq.request.id for seq in (*running(scheduler), *waiting(scheduler))]
    assert ids == list(scheduler._running) + list(scheduler._waiting), "filed under another id"
    assert ids == sorted(ids, key=place.__getitem__), "somebody overtook"


def check_progress(scheduler: Scheduler) -> None:
    """Between steps: only the youngest may be behind by more than its newest token, and blocks fit the tokens."""
    pool = scheduler.pool
    for index, seq in enumerate(running(scheduler)):
        assert seq.pending >= 1, "nothing left to compute"
        assert seq.pending == 1 or index == scheduler.num_running - 1, "an older sequence is behind"
        assert pool.blocks_for(seq.computed) <= len(seq.blocks) <= pool.blocks_for(len(seq.tokens)), "blocks do not fit"
        assert len(seq.tokens) < seq.limit, "should have ended"


def check_plan(scheduler: Scheduler, plan: StepPlan) -> None:
    """A plan in flight: the budget, one chunk for every running sequence, and no write where others may read."""
    pool = scheduler.pool
    assert 0 < plan.num_tokens <= scheduler.max_num_batched_tokens, "the token budget"
    extra = sum(max(0, chunk.logits - 1) for chunk in plan.chunks)
    assert extra <= scheduler.max_prompt_logits, "logits beyond their budget"
    by_row = {seq.row: seq for seq in running(scheduler)}
    assert [chunk.row for chunk in plan.chunks] == list(by_row), "not one chunk for each running sequence, oldest first"
    for chunk in plan.chunks:
        seq = by_row[chunk.row]
        end = chunk.start + len(chunk.tokens)
        assert chunk.tokens, "a chunk without tokens"
        assert chunk.start == seq.computed, "does not start where the KV ends"
        assert list(chunk.tokens) == seq.tokens[chunk.start : end], "other tokens than the sequence's"
        assert chunk.logits == max(0, end - max(chunk.start, seq.scored)), "logits of other positions than are wanted"
        assert seq.blocks[chunk.first_block :] == list(chunk.new_blocks), "blocks are not announced"
        for block in seq.blocks[chunk.start // pool.block_size : pool.blocks_for(end)]:
            assert pool._refs[block] == 1, "writes to a shared block"
            assert block not in pool._key_of, "writes to a published block"


def check_all(scheduler: Scheduler, max_num_seqs: int, arrivals: list[int]) -> None:
    check_references(scheduler.pool, running(scheduler))
    check_idle(scheduler.pool)
    check_keys(scheduler.pool, running(scheduler))
    check_rows(scheduler, max_num_seqs)
    check_waiting(scheduler)
    check_order(scheduler, arrivals)


def check_scored(scheduler: Scheduler, told: dict[int, int]) -> None:
    """Between steps. `told`: of how many prompt tokens each request has been sent log-probabilities."""
    for seq in (*running(scheduler), *waiting(scheduler)):
        asked = seq.request.sampling.prompt_logprobs is not None
        last = len(seq.request.prompt) - 1
        assert seq.scored <= len(seq.tokens) - 1, "the last logits are used, and gave no token"
        assert seq.num_generated == max(0, seq.scored - last), "logits are used up without a token"
        assert told[seq.request.id] == (min(seq.scored, last) if asked else 0), "told of other prompt tokens"
