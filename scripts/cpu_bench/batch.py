"""Requests of one measurement and the rates that come of them. Every worker uses this, so that prefill and decoding are
told apart in the same manner everywhere. Standard library only."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

FIRST_ID = 300
"""Below it lie the ids that tokenizers like to give to single bytes and special tokens."""


def make_prompts(batch: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    generator = random.Random(seed)
    stop = int(vocab_size * 0.99)
    return [[generator.randrange(FIRST_ID, stop) for _ in range(length)] for _ in range(batch)]


@dataclass(frozen=True)
class Mark:
    """The state after a step."""

    time: float
    tokens: int  # generated, by all sequences together
    begun: int  # sequences that have a token
    finished: int


@dataclass
class BatchClock:
    """`note` every token of a step, then `step`."""

    batch: int
    started: float = field(default_factory=time.perf_counter)
    marks: list[Mark] = field(default_factory=list)
    _counts: dict[int, int] = field(default_factory=dict)
    _finished: set[int] = field(default_factory=set)

    def note(self, sequence: int, tokens: int, finished: bool) -> None:
        if tokens:
            self._counts[sequence] = self._counts.get(sequence, 0) + tokens
        if finished:
            self._finished.add(sequence)

    def step(self) -> None:
        tokens = sum(self._counts.values())
        self.marks.append(Mark(time.perf_counter(), tokens, len(self._counts), len(self._finished)))

    def rates(self) -> dict[str, float]:
        """`ttft` [s]: until every sequence had its first token. `total` [tokens/s]: generated, over the whole time.

        `decode` [tokens/s]: over the steps in which every sequence decodes, from the one after the last prompt was
        through until the one in which the first sequence ends.
        """
        first = next(m for m in self.marks if m.begun == self.batch)
        end = self.marks[-1]
        last = next((m for m in self.marks if m.finished and m.time > first.time), end)
        result = {"ttft": first.time - self.started, "total": end.tokens / (end.time - self.started)}
        if last.tokens > first.tokens:
            result["decode"] = (last.tokens - first.tokens) / (last.time - first.time)
        return result
