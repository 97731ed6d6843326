"""A step that is being planned: what is in it so far, and what it may still hold.

It may be planned while the step before is computed. Then it has places for tokens that are being chosen, and may have
sequences that are about to end; `settle` fills in the former and leaves out the latter. It knows nothing of who waits.
"""

from __future__ import annotations

from typing import NamedTuple

from llmserve.scheduler.plan import CHUNK_WORDS, UNKNOWN, StepPlan
from llmserve.scheduler.sequence import Sequence


class Part(NamedTuple):
    """A sequence's share of a step."""

    seq: Sequence
    end: int  # the position after its last
    rows: int  # of logits; of one that pools, of hidden states
    chooses: bool  # the last of its rows yields the token at `end`, or the vector in its place


class Step:
    def __init__(self, tokens: int, prompt_logits: int) -> None:
        self.parts: list[Part] = []
        self.tokens_left = tokens
        self.is_open = True  # to one sequence more: all so far got all they want
        self._prompt_logits = prompt_logits
        # As StepPlan has them on the wire.
        self._heads: list[int] = []
        self._tokens: list[int] = []
        self._blocks: list[int] = []
        self._unknown: list[tuple[int, Sequence, int]] = []  # index in _tokens, whose, position

    def add(self, seq: Sequence, first_block: int, reserved: int) -> None:
        """As many of a sequence's pending tokens as there is room for, with its blocks from entry `first_block` on.

        `reserved`: tokens that are for others who come later.
        """
        start, tokens = seq.computed, seq.tokens
        length = len(tokens)
        blocks = len(seq.blocks)
        if length - start == 1:  # what decodes: nearly all, nearly always
            stop, rows = length, 1
            token = tokens[start]
            if token == UNKNOWN:
                self._unknown.append((len(self._tokens), seq, start))
            self._tokens.append(token)
        else:
            wanted = max(start, seq.first_wanted)
            stop = min(length, start + self.tokens_left - reserved)
            if not seq.pools:
                # One row of logits is every chunk's own, so whoever is in a step advances by a token.
                stop = min(stop, wanted + 1 + self._prompt_logits)
            rows = max(0, stop - wanted)
            self._tokens += tokens[start:stop]
            if rows:
                seq.told = max(seq.told, min(stop, len(seq.request.prompt) - 1))
                if not seq.pools:
                    self._prompt_logits -= rows - 1
        logits, hidden = (0, rows) if seq.pools else (rows, 0)
        self._heads += (seq.row, start, first_block, logits, seq.variant, stop - start, blocks - first_block, hidden)
        if first_block != blocks:
            self._blocks += seq.blocks[first_block:]
        self.tokens_left -= stop - start
        seq.computed = stop
        chooses = stop == length
        if chooses:
            tokens.append(UNKNOWN)
        else:
            self.is_open = False
        self.parts.append(Part(seq, stop, rows, chooses))

    def settle(self) -> None:
        """The step before has been accounted for: its tokens are known, and who ended in it is left out."""
        for index, seq, position in self._unknown:
            self._tokens[index] = seq.tokens[position]
        ended = [index for index, part in enumerate(self.parts) if part.seq.ended]
        for index in reversed(ended):
            del self.parts[index]
            at = index * CHUNK_WORDS
            token, block = sum(self._heads[5:at:CHUNK_WORDS]), sum(self._heads[6:at:CHUNK_WORDS])
            *_, tokens, blocks, _ = self._heads[at : at + CHUNK_WORDS]
            del self._heads[at : at + CHUNK_WORDS]
            del self._tokens[token : token + tokens]
            del self._blocks[block : block + blocks]

    def plan(self) -> StepPlan:
        return StepPlan.assemble(len(self.parts), self._heads, self._tokens, self._blocks)
