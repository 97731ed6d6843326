"""One step of work, as rank 0 tells it to every rank: flat int32 on the wire, no pickle; and what sampling made of it.

A plan says what to compute and where its KV goes. It knows nothing of requests, sampling parameters or text, so a rank
that executes one needs no state but its KV blocks and its block table (one row of block numbers per sequence).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from operator import add, ge
from typing import NamedTuple

from llmserve.request import TokenLogprobs

HEADER_WORDS = 3
"""Of a plan on the wire, before the first chunk's words."""

CHUNK_WORDS = 8
"""Of a chunk on the wire, beside its tokens and blocks."""

UNKNOWN = -1
"""Stands for a token that the step in flight is about to choose; no plan that is executed has one."""


class Chunk(NamedTuple):
    """Compute `tokens` of the sequence in block-table row `row`, at positions start, start + 1, …

    Before that, entries `first_block`, `first_block + 1`, … of the row's block table become `new_blocks`; those before
    `first_block` stay as earlier plans left them. Position p lives in block `table[p // block_size]`. A row may get
    more blocks than this chunk fills.

    `logits`: how many of the chunk's last positions logits are wanted for, 0 … len(tokens). None of those have any use
    while more of a prompt is to come, unless log-probabilities of its tokens are asked for; the last one's yield the
    next token. Logits rows are ordered by chunk, then by position.

    `hidden`: likewise for hidden states behind the final norm, in rows of their own. A chunk has either.
    """

    row: int
    start: int
    first_block: int
    tokens: tuple[int, ...]
    new_blocks: tuple[int, ...]
    logits: int
    variant: int = 0  # which set of rotation frequencies the sequence turns by; the same in all its chunks
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step; no two have the same row.

    A plan is its words on the wire, and nothing is made of them that is not asked for: the numbers of chunks, of tokens
    and of new blocks; for each chunk row, start, first_block, logits, variant, its numbers of tokens and of new blocks,
    and hidden; all tokens; all new blocks. So no plan is an empty array, which is a worker's order to stop.
    """

    words: array[int]  # int32

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> StepPlan:
        """OverflowError if a number does not fit."""
        chunks = tuple(chunks)
        heads: list[int] = []
        tokens: list[int] = []
        blocks: list[int] = []
        for row, start, first_block, own, new_blocks, logits, variant, hidden in chunks:
            heads += (row, start, first_block, logits, variant, len(own), len(new_blocks), hidden)
            tokens += own
            blocks += new_blocks
        return cls.assemble(len(chunks), heads, tokens, blocks)

    @classmethod
    def assemble(cls, chunks: int, heads: list[int], tokens: list[int], blocks: list[int]) -> StepPlan:
        """From its four parts, in the form that they have on the wire."""
        words = array("i", (chunks, len(tokens), len(blocks)))
        words.fromlist(heads)
        words.fromlist(tokens)
        words.fromlist(blocks)
        return cls(words)

    @property
    def num_chunks(self) -> int:
        return self.words[0]

    @property
    def num_tokens(self) -> int:
        return self.words[1]

    @property
    def num_logits(self) -> int:
        return sum(self.words[HEADER_WORDS + 3 : self.tokens_at : CHUNK_WORDS])

    @property
    def starts(self) -> array[int]:
        """Of each chunk, the position of its first token."""
        return self.words[HEADER_WORDS + 1 : self.tokens_at : CHUNK_WORDS]

    @property
    def lengths(self) -> array[int]:
        """Of each chunk, its number of tokens."""
        return self.words[HEADER_WORDS + 5 : self.tokens_at : CHUNK_WORDS]

    @property
    def tokens_at(self) -> int:
        """Where in `words` the tokens begin."""
        return HEADER_WORDS + self.num_chunks * CHUNK_WORDS

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The same in parts, made anew at every call: for those who take one chunk after the other."""
        words = self.words.tolist()
        token, block = self.tokens_at, self.tokens_at + words[1]
        chunks = []
        for at in range(HEADER_WORDS, token, CHUNK_WORDS):
            row, start, first_block, logits, variant, tokens, blocks, hidden = words[at : at + CHUNK_WORDS]
            own, new_blocks = tuple(words[token : token + tokens]), tuple(words[block : block + blocks])
            chunks.append(Chunk(row, start, first_block, own, new_blocks, logits, variant, hidden))
            token += tokens
            block += blocks
        return tuple(chunks)

    @classmethod
    def decode(cls, words: array[int]) -> StepPlan:
        """The plan whose words these are. ValueError if they are not in its form.

        Whether rows, positions, tokens and blocks exist is for those who have them.
        """
        if len(words) < HEADER_WORDS or min(words) < 0:
            raise ValueError(f"not a step plan: {len(words)} words, or a negative one among them")
        chunks, tokens, blocks = words[:HEADER_WORDS]
        if len(words) != HEADER_WORDS + CHUNK_WORDS * chunks + tokens + blocks:
            raise ValueError(
                f"not a step plan: {chunks} chunks, {tokens} tokens and {blocks} blocks do not make {len(words)} words"
            )
        plan = cls(words)
        heads = words[HEADER_WORDS : plan.tokens_at]
        lengths = heads[5::CHUNK_WORDS]
        if sum(lengths) != tokens or sum(heads[6::CHUNK_WORDS]) != blocks:
            raise ValueError(f"not a step plan: its chunks have other numbers than {tokens} tokens and {blocks} blocks")
        wanted = map(add, heads[3::CHUNK_WORDS], heads[7::CHUNK_WORDS])
        if 0 in lengths or not all(map(ge, lengths, wanted)):
            raise ValueError("not a step plan: a chunk has no tokens, or wants more rows than it has tokens")
        return plan


class Sampled(NamedTuple):
    """What the sampler made of one row of logits: a token, or with `error` one sentence why there is none.

    Where the sequence has the token already, it is that one, and `logprobs` is what was wanted. `refused`: the error is
    of what the request asks for, and the logits are as good as any.
    """

    token: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None
    refused: bool = False


class Pooled(NamedTuple):
    """What was made of a chunk's rows of hidden states: the prompt's vector, once they are its last.

    `vector` is as in TokenEvent; with `error`, one sentence why there is none.
    """

    vector: bytes | None = None
    error: str | None = None
