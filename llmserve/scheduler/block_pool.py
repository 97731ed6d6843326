"""Which KV blocks are in use, and which hold a prefix that another sequence can reuse. Bookkeeping only.

The cache is cut into blocks of equal size, as in PagedAttention (Kwon et al., 2023), and a full block is findable by a
hash of all the tokens up to its end. The pool counts users; who they are, and what a block holds, it does not know.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b


def block_key(parent: bytes, tokens: Iterable[int]) -> bytes:
    """The 16-byte name of a full block: its `tokens` (int32), and by `parent` (b"" at the start) all that precede them.

    Equal tokens at another position, or after another beginning, have different KV, and so a different key.
    """
    return blake2b(parent + array("i", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Reference counts of `num_blocks` blocks of `block_size` tokens each, and the prefix cache among them.

    A block nobody uses is idle. If it was published it stays findable while idle, until `take` needs it: idle blocks
    are the cache, and are reused least recently used first. With `prefix_caching` off nothing is ever found.
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a block pool needs blocks that hold tokens, got {num_blocks} blocks of {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._refs = [0] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # next to be reused first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}  # the inverse of _block_of

    @property
    def num_idle(self) -> int:
        """Blocks that `take` can give out now, cached prefixes among them."""
        return len(self._idle)

    @property
    def usage(self) -> float:
        """The fraction of blocks in use, 0 … 1; idle cached prefixes are not in use."""
        return 1 - len(self._idle) / self.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest findable run of `keys`, from the first one on.

        Nothing changes: `share` them before anything else can take them. `keys` is read only as far as it matches.
        """
        blocks: list[int] = []
        if self.prefix_caching:
            for key in keys:
                if (block := self._block_of.get(key)) is None:
                    break
                blocks.append(block)
        return blocks

    def count_idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` are idle, that is, by how much sharing them would lower `num_idle`."""
        return sum(not self._refs[block] for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """One more user for each of `blocks`, which `match` found."""
        for block in blocks:
            self._refs[block] += 1
            self._idle.pop(block, None)

    def take(self, count: int) -> list[int]:
        """`count` blocks for one user, no longer findable. ValueError, and no change, if fewer are idle."""
        if count > len(self._idle):
            raise ValueError(f"{count} blocks were asked for and {len(self._idle)} are idle")
        taken = [self._idle.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._refs[block] = 1
        self.withdraw(taken)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of `blocks`, which are in the order of their positions."""
        for block in reversed(blocks):  # so that a beginning, which more prompts share, outlives its continuation
            if self._refs[block] < 1:
                raise ValueError(f"block {block} was released more often than it was taken")
            self._refs[block] -= 1
            if not self._refs[block]:
                self._idle[block] = None
                if block not in self._key_of:  # nobody can find it: reuse it before any cached prefix
                    self._idle.move_to_end(block, last=False)

    def publish(self, block: int, key: bytes) -> None:
        """Let `match` find `block`, which is in use, full, and never written again, by `key`.

        If an equal block is already findable it stays the one, and this one remains its user's own.
        """
        if self.prefix_caching and key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def withdraw(self, blocks: Iterable[int]) -> None:
        """Let `match` find none of `blocks` any more; those who use them already keep them."""
        for block in blocks:
            if (key := self._key_of.pop(block, None)) is not None:
                del self._block_of[key]
