"""A request in flight: its tokens so far, and how much of their KV exists, in which blocks.

Plain data. The scheduler alone changes it; the sampler reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from llmserve.request import Request
from llmserve.scheduler.block_pool import block_key

NO_ROW = -1
"""The row of a sequence that waits, or has ended."""

NEVER = sys.maxsize


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` are the prompt and what was generated; the KV of the first `computed` of them is in `blocks`, or will be
    when the plans made so far are executed. The last token may be UNKNOWN: the step in flight is choosing it.

    The logits of the last token's position are wanted, which foretell the next. Where log-probabilities of the prompt
    are asked for, those of all its positions are; `told` counts the positions before its last whose logits nobody
    needs any more. Of one that `pools` hidden states are wanted in place of logits, and its vector stands for the one
    token that it generates.

    A sequence runs while it has a row of the block table, otherwise it waits and owns nothing. There is no other state:
    whether it is in its prompt, decoding, or recomputing after a preemption is only how far `computed` is behind.
    """

    request: Request
    arrival: int  # how many came before it
    limit: int  # the length, prompt included, at which it ends at the latest
    variant: int = 0  # the set of rotation frequencies that its keys are turned by
    id: int = field(init=False)
    order: tuple[int, int] = field(init=False)  # who is smaller goes first
    tokens: list[int] = field(init=False)
    stops_from: int = field(init=False)  # the length, prompt included, from which on a stop token ends it
    row: int = NO_ROW
    computed: int = 0
    told: int = field(init=False)
    pools: bool = field(init=False)
    blocks: list[int] = field(default_factory=list)  # in the order of positions; the last may have room left
    room: int = 0  # tokens that the blocks hold
    fills: int = NEVER  # the length at which its first block that is not published will be full
    keys: list[bytes] = field(default_factory=list)  # of the leading full blocks, as far as anyone asked
    admitted: bool = False  # has run before, and may have been preempted since
    untold: int = 0  # prompt tokens that the prefix cache held when it first was, until an event has told of them
    ended: bool = False  # its final event is out; a plan made ahead may still hold a chunk of it

    def __post_init__(self) -> None:
        request, sampling = self.request, self.request.sampling
        self.id = request.id
        self.order = request.priority, self.arrival
        self.tokens = list(request.prompt)
        # Before min_tokens a stop token can only come where a grammar leaves nothing else, and there it is the end.
        self.stops_from = len(request.prompt) + (sampling.min_tokens if sampling.grammar is None else 0)
        self.told = 0 if request.wants_whole_prompt else len(request.prompt) - 1
        self.pools = request.pooling is not None

    @property
    def first_wanted(self) -> int:
        """The first position whose logits are still wanted."""
        return self.told if self.told < len(self.request.prompt) - 1 else len(self.tokens) - 1

    def key(self, index: int, block_size: int) -> bytes:
        """The prefix-cache key of full block `index`. Each is computed once: what counts never changes."""
        keys = self.keys
        while len(keys) <= index:
            at = len(keys) * block_size
            keys.append(block_key(keys[-1] if keys else self._root(), self.tokens[at : at + block_size]))
        return keys[index]

    def _root(self) -> bytes:
        """What stands before the first block: sequences with equal tokens and another root share nothing."""
        salt = self.request.cache_salt
        if not (self.variant or salt):
            return b""
        # A hash, since whoever chose these bytes freely could choose another's key.
        return blake2b(salt.encode(errors="surrogatepass"), digest_size=16, key=b"%d" % self.variant).digest()

    def prefix_keys(self, block_size: int) -> Iterator[bytes]:
        """Keys of the blocks it could take from the cache: all full ones whose logits nobody wants any more."""
        for index in range(self.first_wanted // block_size):
            yield self.key(index, block_size)
