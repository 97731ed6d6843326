"""A request in flight: its tokens so far, and how much of their KV exists, in which blocks.

Plain data. The scheduler alone changes it; the sampler reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llmserve.request import Request
from llmserve.scheduler.block_pool import block_key

NO_ROW = -1
"""The row of a sequence that waits."""


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` are the prompt and what was generated; the KV of the first `computed` of them is in `blocks`.

    A sequence runs while it has a row of the block table, otherwise it waits and owns nothing. There is no other state:
    whether it is in its prompt, decoding, or recomputing after a preemption is only how far `computed` is behind.
    """

    request: Request
    limit: int  # the length, prompt included, at which it ends at the latest
    tokens: list[int] = field(init=False)
    row: int = NO_ROW
    computed: int = 0
    blocks: list[int] = field(default_factory=list)  # in the order of positions; the last may have room left
    keys: list[bytes] = field(default_factory=list)  # of the leading full blocks, as far as anyone asked
    cached_tokens: int | None = None  # prompt tokens the prefix cache held at first admission; None before that

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def key(self, index: int, block_size: int) -> bytes:
        """The prefix-cache key of full block `index`. Each is computed once: they depend on the tokens alone."""
        keys = self.keys
        while len(keys) <= index:
            at = len(keys) * block_size
            keys.append(block_key(keys[-1] if keys else b"", self.tokens[at : at + block_size]))
        return keys[index]

    def prefix_keys(self, block_size: int) -> Iterator[bytes]:
        """Keys of the blocks it could take from the cache: all full ones, but at least one token is left to compute."""
        for index in range((len(self.tokens) - 1) // block_size):
            yield self.key(index, block_size)
