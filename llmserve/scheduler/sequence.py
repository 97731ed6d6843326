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

    The logits of the first `scored` positions are used, or of no use; they never reach past the last token's. Usually
    only that one's are wanted, and all of a prompt's where log-probabilities of its tokens are asked for.

    A sequence runs while it has a row of the block table, otherwise it waits and owns nothing. There is no other state:
    whether it is in its prompt, decoding, or recomputing after a preemption is only how far `computed` is behind.
    """

    request: Request
    limit: int  # the length, prompt included, at which it ends at the latest
    variant: int = 0  # the set of rotation frequencies that its keys are turned by
    tokens: list[int] = field(init=False)
    row: int = NO_ROW
    computed: int = 0
    scored: int = field(init=False)
    blocks: list[int] = field(default_factory=list)  # in the order of positions; the last may have room left
    keys: list[bytes] = field(default_factory=list)  # of the leading full blocks, as far as anyone asked
    cached_tokens: int | None = None  # prompt tokens the prefix cache held at first admission; None before that

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.scored = len(self.tokens) - 1 if self.request.sampling.prompt_logprobs is None else 0

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def key(self, index: int, block_size: int) -> bytes:
        """The prefix-cache key of full block `index`. Each is computed once: tokens and variant never change."""
        keys, start = self.keys, bytes([self.variant]) if self.variant else b""
        while len(keys) <= index:
            at = len(keys) * block_size
            keys.append(block_key(keys[-1] if keys else start, self.tokens[at : at + block_size]))
        return keys[index]

    def prefix_keys(self, block_size: int) -> Iterator[bytes]:
        """Keys of the blocks it could take from the cache: all full ones whose logits nobody wants any more."""
        for index in range(self.scored // block_size):
            yield self.key(index, block_size)
