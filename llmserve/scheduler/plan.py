"""One step of work, as rank 0 tells it to every rank: flat int32 on the wire, no pickle; and what sampling made of it.

A plan says what to compute and where its KV goes. It knows nothing of requests, sampling parameters or text, so a rank
that executes one needs no state but its KV blocks and its block table (one row of block numbers per sequence).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from llmserve.request import TokenLogprobs

HEADER_WORDS = 7
"""Of a chunk on the wire, before its tokens."""


class Chunk(NamedTuple):
    """Compute `tokens` of the sequence in block-table row `row`, at positions start, start + 1, …

    Before that, entries `first_block`, `first_block + 1`, … of the row's block table become `new_blocks`; those before
    `first_block` stay as earlier plans left them. Position p lives in block `table[p // block_size]`. A row may get
    more blocks than this chunk fills.

    `logits`: how many of the chunk's last positions logits are wanted for, 0 … len(tokens). None of those have any use
    while more of a prompt is to come, unless log-probabilities of its tokens are asked for; the last one's yield the
    next token. Logits rows are ordered by chunk, then by position.
    """

    row: int
    start: int
    first_block: int
    tokens: tuple[int, ...]
    new_blocks: tuple[int, ...]
    logits: int
    variant: int = 0  # which set of rotation frequencies the sequence turns by; the same in all its chunks


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step; no two have the same row.

    On the wire: the number of chunks, then for each chunk row, start, first_block, logits, variant, the numbers of
    tokens and of new blocks, the tokens, the blocks. So no plan encodes to an empty array, which is a worker's order to
    stop.
    """

    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def num_logits(self) -> int:
        return sum(chunk.logits for chunk in self.chunks)

    def encode(self) -> array[int]:
        """The plan as int32 words. OverflowError if a number does not fit."""
        words = [len(self.chunks)]
        for row, start, first_block, tokens, new_blocks, logits, variant in self.chunks:
            words += (row, start, first_block, logits, variant, len(tokens), len(new_blocks))
            words += tokens
            words += new_blocks
        return array("i", words)

    @classmethod
    def decode(cls, words: array[int]) -> StepPlan:
        """The inverse of `encode`. ValueError, with the position in `words`, if they are not an encoded plan."""
        flat = words.tolist()
        if not flat or flat[0] < 0:
            raise ValueError(f"not a step plan: it begins with {flat[:1]}, not with a number of chunks")
        chunks = []
        at = 1
        for _ in range(flat[0]):
            header = flat[at : at + HEADER_WORDS]
            if len(header) < HEADER_WORDS or min(header) < 0:
                raise ValueError(f"not a step plan: no chunk begins at word {at} of {len(flat)}: {header}")
            row, start, first_block, logits, variant, num_tokens, num_blocks = header
            blocks_at = at + HEADER_WORDS + num_tokens
            end = blocks_at + num_blocks
            if not 0 < num_tokens >= logits:
                raise ValueError(f"not a step plan: the chunk at word {at} of {len(flat)} is impossible: {header}")
            tokens, new_blocks = tuple(flat[at + HEADER_WORDS : blocks_at]), tuple(flat[blocks_at:end])
            chunks.append(Chunk(row, start, first_block, tokens, new_blocks, logits, variant))
            at = end
        if at != len(flat):
            raise ValueError(f"not a step plan: it ends at word {at}, but {len(flat)} came")
        return cls(tuple(chunks))


class Sampled(NamedTuple):
    """What the sampler made of one row of logits: a token, or with `error` one sentence why there is none.

    Where the sequence has the token already, it is that one, and `logprobs` is what was wanted.
    """

    token: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None
