"""What must hold of a scheduler, each recounted from scratch. `test_invariants.py` shows that each can fail."""

from __future__ import annotations

from collections.abc import Iterable

from llmserve.request import Pooling
from llmserve.scheduler import BlockPool, Scheduler, Sequence, StepPlan
from llmserve.scheduler.block_pool import block_key
from llmserve.scheduler.plan import UNKNOWN
from llmserve.scheduler.sequence import NO_ROW

from .fake_model import FakeModel, kv_of


def running(scheduler: Scheduler) -> list[Sequence]:
    return list(scheduler._running)


def waiting(scheduler: Scheduler) -> list[Sequence]:
    return list(scheduler._waiting)


def known(seq: Sequence) -> list[int]:
    """Its tokens, without those that steps in flight or to come will choose."""
    return [token for token in seq.tokens if token != UNKNOWN]


def check_references(pool: BlockPool, owners: Iterable[Sequence]) -> None:
    counted = [0] * pool.num_blocks
    salts: dict[int, str] = {}
    for seq in owners:
        assert len(set(seq.blocks)) == len(seq.blocks), "a sequence holds a block twice"
        for block in seq.blocks:
            counted[block] += 1
            assert salts.setdefault(block, seq.request.cache_salt) == seq.request.cache_salt, "shared with other salts"
    assert pool._refs == counted, "reference counts differ from a recount"


def check_idle(pool: BlockPool) -> None:
    unused = {block for block, refs in enumerate(pool._refs) if refs == 0}
    assert set(pool._idle) == unused, "the idle blocks are not those without users"
    assert pool.num_idle == len(unused)
    assert abs(pool.usage - (pool.num_blocks - len(unused)) / pool.num_blocks) < 1e-9
    keyed = [block in pool._key_of for block in pool._idle]
    assert keyed == sorted(keyed), "a cached prefix would be reused before a block that nobody can find"


def check_keys(pool: BlockPool, owners: Iterable[Sequence], model: FakeModel) -> None:
    """What can be found is what its key says: the KV of those tokens, all of it, in every slot."""
    assert pool._key_of == {block: key for key, block in pool._block_of.items()}, "keys and blocks disagree"
    assert pool.prefix_caching or not pool._key_of, "published with prefix caching off"
    size = pool.block_size
    for seq in owners:
        kv, parent = 0, seq._root()
        for index, block in enumerate(seq.blocks):
            tokens = seq.tokens[index * size : (index + 1) * size]
            parent = block_key(parent, tokens)
            contents = []
            for position, token in enumerate(tokens, index * size):
                kv = kv_of(kv, position, token)
                contents.append(kv)
            if block in pool._key_of:
                assert pool._key_of[block] == parent, "published under the key of other tokens"
                assert model.kv[block * size : (block + 1) * size] == contents, "published before its KV was computed"


def check_rows(scheduler: Scheduler, max_num_seqs: int) -> None:
    rows = [seq.row for seq in running(scheduler)] + scheduler._free_rows
    assert sorted(rows) == list(range(max_num_seqs)), "a row is lost, or has two owners"
    assert len(running(scheduler)) <= scheduler.max_num_batched_tokens, "more run than can advance in one step"
    assert all(len(seq.tokens) <= seq.limit for seq in running(scheduler)), "more is planned than it may have"


def check_waiting(scheduler: Scheduler) -> None:
    for seq in waiting(scheduler):
        assert (seq.row, seq.computed, seq.room, seq.blocks) == (NO_ROW, 0, 0, []), "a waiting sequence owns something"
    assert len(scheduler._waiting) == len(waiting(scheduler)), "counts other than wait"


def check_order(scheduler: Scheduler, arrivals: list[int]) -> None:
    """`arrivals`: request ids in the order of `add`."""
    place = {request_id: index for index, request_id in enumerate(arrivals)}

    def order(seq: Sequence) -> tuple[int, int]:
        return seq.request.priority, place[seq.request.id]

    ran, waits = [order(seq) for seq in running(scheduler)], [order(seq) for seq in waiting(scheduler)]
    assert ran == sorted(ran), "those who run are out of order"
    assert waits == sorted(waits), "those who wait are out of order"
    for priority in {priority for priority, _ in ran}:
        last = max(arrival for each, arrival in ran if each == priority)
        assert all(arrival > last for each, arrival in waits if each == priority), "somebody overtook"
    alive = {seq.request.id: seq for seq in (*running(scheduler), *waiting(scheduler))}
    assert scheduler._alive == alive, "filed under another id, or lost"
    assert set(scheduler._deadlines._moment_of) <= set(alive), "a deadline of one that has ended"
    assert not any(seq.ended for seq in alive.values()), "alive and ended"


def check_progress(scheduler: Scheduler) -> None:
    """Between steps: one at most is behind by more than its newest token; blocks fit the tokens."""
    pool = scheduler.pool
    behind = 0
    for seq in running(scheduler):
        pending = len(seq.tokens) - seq.computed
        behind += pending > 1
        assert pending >= 1, "nothing left to compute"
        assert pool.blocks_for(seq.computed) <= len(seq.blocks) <= pool.blocks_for(len(seq.tokens)), "blocks do not fit"
        assert seq.room == len(seq.blocks) * pool.block_size, "room for other than its blocks hold"
        assert len(known(seq)) < seq.limit, "should have ended"
    assert behind <= 1, "more than one is behind"
    for seq in (*running(scheduler), *waiting(scheduler)):
        unknown = len(seq.tokens) - len(known(seq))
        assert unknown <= (scheduler._prepared is not None), "waits for a token that nothing will choose"


def check_plan(scheduler: Scheduler, plan: StepPlan, told: dict[int, int]) -> None:
    """A plan in flight: the budget, one chunk for every running sequence, and no write where others may read.

    `told`: of how many prompt tokens each request has been sent log-probabilities, or pooled hidden states.
    """
    pool = scheduler.pool
    assert 0 < plan.num_tokens <= scheduler.max_num_batched_tokens, "the token budget"
    extra = sum(max(0, chunk.logits - 1) for chunk in plan.chunks)
    assert extra <= scheduler.max_prompt_logits, "logits beyond their budget"
    by_row = {seq.row: seq for seq in running(scheduler)}
    rows = [chunk.row for chunk in plan.chunks]
    assert sorted(rows) == sorted(by_row), "not one chunk for each running sequence"
    for chunk in plan.chunks:
        seq = by_row[chunk.row]
        end = chunk.start + len(chunk.tokens)
        tokens, prompt_len = known(seq), len(seq.request.prompt)
        assert chunk.tokens, "a chunk without tokens"
        assert end == seq.computed, "does not end where the KV will"
        assert list(chunk.tokens) == tokens[chunk.start : end], "other tokens than the sequence's"
        pooling = seq.request.pooling
        whole = pooling is Pooling.MEAN if pooling else seq.request.sampling.prompt_logprobs is not None
        asked = whole and told[seq.request.id] < prompt_len - 1
        first = max(chunk.start, told[seq.request.id] if asked else len(tokens) - 1)
        rows = max(0, end - first)
        wanted = (0, rows) if pooling else (rows, 0)
        assert (chunk.logits, chunk.hidden) == wanted, "rows of other positions than are wanted"
        assert seq.blocks[chunk.first_block :] == list(chunk.new_blocks), "blocks are not announced"
        for block in seq.blocks[chunk.start // pool.block_size : pool.blocks_for(end)]:
            assert pool._refs[block] == 1, "writes to a shared block"
            assert block not in pool._key_of, "writes to a published block"


def check_all(scheduler: Scheduler, max_num_seqs: int, arrivals: list[int], model: FakeModel) -> None:
    check_references(scheduler.pool, running(scheduler))
    check_idle(scheduler.pool)
    check_keys(scheduler.pool, running(scheduler), model)
    check_rows(scheduler, max_num_seqs)
    check_waiting(scheduler)
    check_order(scheduler, arrivals)
