"""Blocks: who may take them, how long a prefix stays findable, and what its key says."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmserve.scheduler import BlockPool
from llmserve.scheduler.block_pool import block_key


def cached(pool: BlockPool, keys: list[bytes]) -> list[int]:
    """Fill and publish a run of blocks under `keys`, then let go of them."""
    blocks = pool.take(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    return blocks


def test_take_gives_exclusive_blocks_until_none_are_left() -> None:
    pool = BlockPool(4, 16)
    first, second = pool.take(1), pool.take(3)
    assert sorted(first + second) == [0, 1, 2, 3]
    assert (pool.num_idle, pool.usage) == (0, 1.0)
    assert pool.take(0) == []
    with pytest.raises(ValueError, match="1 blocks were asked for and 0 are idle"):
        pool.take(1)
    pool.release(second)
    assert (pool.num_idle, pool.usage) == (3, 0.25)


def test_a_failed_take_changes_nothing() -> None:
    pool = BlockPool(2, 16)
    cached(pool, [b"a", b"b"])
    with pytest.raises(ValueError):
        pool.take(3)
    assert pool.num_idle == 2
    assert len(pool.match([b"a", b"b"])) == 2


def test_a_shared_block_is_idle_only_when_its_last_user_left() -> None:
    pool = BlockPool(3, 16)
    blocks = pool.take(2)
    for block, key in zip(blocks, (b"a", b"b"), strict=True):
        pool.publish(block, key)
    pool.share(pool.match([b"a", b"b", b"c"]))
    pool.release(blocks)
    assert pool.num_idle == 1
    pool.release(blocks)
    assert pool.num_idle == 3


def test_match_is_the_longest_run_from_the_first_key() -> None:
    pool = BlockPool(4, 16)
    a, b, c = cached(pool, [b"a", b"b", b"c"])
    assert pool.match([b"a", b"b", b"x", b"c"]) == [a, b]
    assert pool.match([b"x", b"a"]) == []
    assert pool.match([]) == []
    assert pool.match(iter([b"a", b"b", b"c"])) == [a, b, c]


def test_match_reads_keys_only_as_far_as_they_match() -> None:
    pool = BlockPool(2, 16)
    cached(pool, [b"a"])
    keys = iter([b"a", b"x", b"costs a hash"])
    pool.match(keys)
    assert next(keys) == b"costs a hash"


def test_count_idle_is_what_sharing_takes_from_the_idle() -> None:
    pool = BlockPool(4, 16)
    blocks = cached(pool, [b"a", b"b"])
    pool.share(blocks[:1])
    assert pool.count_idle(blocks) == 1
    before = pool.num_idle
    pool.share(blocks)
    assert before - pool.num_idle == 1


def test_the_least_recently_used_prefix_goes_first_and_its_end_before_its_beginning() -> None:
    pool = BlockPool(4, 16)
    cached(pool, [b"old 0", b"old 1"])
    cached(pool, [b"new 0", b"new 1"])
    pool.take(1)
    assert len(pool.match([b"old 0", b"old 1"])) == 1
    pool.take(1)
    assert pool.match([b"old 0"]) == []
    assert len(pool.match([b"new 0", b"new 1"])) == 2


def test_use_makes_a_prefix_recent() -> None:
    pool = BlockPool(2, 16)
    a = cached(pool, [b"a"])
    cached(pool, [b"b"])
    pool.share(a)
    pool.release(a)
    pool.take(1)
    assert pool.match([b"a"]) == a
    assert pool.match([b"b"]) == []


def test_a_block_nobody_can_find_is_reused_before_any_prefix() -> None:
    pool = BlockPool(2, 16)
    a = cached(pool, [b"a"])
    plain = pool.take(1)
    pool.release(plain)
    assert pool.take(1) == plain
    assert pool.match([b"a"]) == a


def test_the_first_of_equal_blocks_is_the_one_found() -> None:
    pool = BlockPool(3, 16)
    first, second = pool.take(2)
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    assert pool.match([b"a"]) == [first]
    pool.release([second])
    assert pool.match([b"a"]) == [first]
    pool.release([first])
    assert pool.take(3).count(first) == 1
    assert pool.match([b"a"]) == []


def test_withdrawn_blocks_are_not_found_but_stay_in_use() -> None:
    pool = BlockPool(2, 16)
    blocks = pool.take(2)
    pool.publish(blocks[0], b"a")
    pool.withdraw(blocks)
    assert pool.match([b"a"]) == []
    assert pool.num_idle == 0
    pool.publish(blocks[1], b"a")
    assert pool.match([b"a"]) == [blocks[1]]


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = BlockPool(2, 16, prefix_caching=False)
    cached(pool, [b"a", b"b"])
    keys = iter([b"costs a hash"])
    assert pool.match(keys) == []
    assert next(keys) == b"costs a hash"
    assert pool._key_of == {}


def test_releasing_what_nobody_uses_is_an_error() -> None:
    pool = BlockPool(2, 16)
    blocks = pool.take(1)
    pool.release(blocks)
    with pytest.raises(ValueError, match="released more often"):
        pool.release(blocks)


@pytest.mark.parametrize("size", [(0, 16), (4, 0), (-1, 16)])
def test_a_pool_needs_blocks_that_hold_tokens(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        BlockPool(*size)


def test_blocks_for_rounds_up() -> None:
    pool = BlockPool(1, 16)
    assert [pool.blocks_for(n) for n in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_a_key_names_tokens_and_all_that_precede_them() -> None:
    first = block_key(b"", [1, 2])
    assert len(first) == 16
    assert block_key(b"", (1, 2)) == first
    assert (
        len({first, block_key(first, [1, 2]), block_key(block_key(b"", [3, 4]), [1, 2]), block_key(b"", [2, 1])}) == 4
    )
    # By value, as int32: 258 = 0x0102 is not 1 and 2, and the key is the same in every process.
    assert block_key(b"", [258]) != block_key(b"", [1, 2])
    assert first.hex() == "2cc5e4d47c5f3c5fbe635a5a5b7bb392"


@settings(max_examples=60, stateful_step_count=40, deadline=None)
class AnyUse(RuleBasedStateMachine):
    """Whatever users do, a model of plain sets agrees with the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8, 4)
        self.held: list[list[int]] = []
        self.found: dict[bytes, int] = {}

    @rule(count=st.integers(0, 9))
    def take(self, count: int) -> None:
        in_use = {block for blocks in self.held for block in blocks}
        if count > 8 - len(in_use):
            with pytest.raises(ValueError):
                self.pool.take(count)
            return
        blocks = self.pool.take(count)
        assert len(set(blocks)) == count
        assert in_use.isdisjoint(blocks)
        self.held.append(blocks)
        self.found = {key: block for key, block in self.found.items() if block not in blocks}

    @precondition(lambda self: any(self.held))
    @rule(data=st.data(), key=st.integers(0, 5).map(lambda i: bytes([i])))
    def publish(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from([block for blocks in self.held for block in blocks]))
        if block not in self.found.values():  # a block is published once
            self.pool.publish(block, key)
            self.found.setdefault(key, block)

    @rule(keys=st.lists(st.integers(0, 5).map(lambda i: bytes([i])), max_size=3, unique=True))
    def share(self, keys: list[bytes]) -> None:
        blocks = self.pool.match(keys)
        assert blocks == [self.found[key] for key in keys[: len(blocks)]]
        assert len(blocks) == len(keys) or keys[len(blocks)] not in self.found
        self.pool.share(blocks)
        self.held.append(blocks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def counts_agree(self) -> None:
        in_use = {block for blocks in self.held for block in blocks}
        assert self.pool.num_idle == 8 - len(in_use)
        assert self.pool.usage == len(in_use) / 8
        for key, block in self.found.items():
            assert self.pool.match([key]) == [block]


TestAnyUse = AnyUse.TestCase
