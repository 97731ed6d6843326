"""Steps of a real engine over a grid of shapes, each timed several times: what a cost model is fitted to.

Three kinds: decoding, by batch and context; a prompt alone, by chunk and by what of it was computed before; and both in
one step. Prompts are random, so that nothing is found in the prefix cache.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from llmserve.bench.load import random_prompt
from llmserve.errors import LlmserveError
from llmserve.request import Request, SamplingParams
from simulator.cost import Work
from simulator.engine import WatchedEngine
from simulator.fit import Measured

DECODED = 12
"""Steps of decoding that are timed in a row; their median is one measurement."""
WARM = 3
"""Steps before that, untimed."""
REPEATS = 5

Sample = tuple[Work, float]
"""A step's work and seconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """`batch` sequences of `context` tokens decode; then, with a `prompt`, one of that many tokens joins them."""

    batch: int
    context: int
    prompt: int

    def __str__(self) -> str:
        parts = [f"{self.batch} decoding after {self.context}"] if self.batch else []
        return " + ".join(parts + ([f"a prompt of {self.prompt}"] if self.prompt else []))

    def steps(self, budget: int) -> int:
        """At most; as many tokens the first of the batch will have generated."""
        rest = max(1, budget - self.batch)
        return -(-self.batch * self.context // rest) + WARM + DECODED + -(-self.prompt // rest) + 2


def grid(max_num_seqs: int, max_model_len: int, kv_tokens: int, budget: int) -> list[Case]:
    """Powers of two as far as the engine goes."""
    batches = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= max_num_seqs]
    contexts, prompts = (16, 128, 512, 2048), (8, 16, 32, 64, 128, 256, 512, 1024)
    cases = [Case(batch, context, 0) for batch in batches for context in contexts]
    cases += [Case(0, 0, prompt) for prompt in (*prompts, 2 * budget, 4 * budget)]
    cases += [Case(batch, 128, prompt) for batch in batches[2::2] for prompt in prompts[1::2]]

    def fits(case: Case) -> bool:
        longest = case.context + case.steps(budget)
        tokens = case.batch * longest + case.prompt
        rows = case.batch + bool(case.prompt)
        return max(longest, case.prompt + 1) <= max_model_len and tokens <= kv_tokens and rows <= max_num_seqs

    return [case for case in cases if fits(case)]


class Calibration:
    def __init__(self, engine: WatchedEngine, seed: int) -> None:
        self._engine = engine
        self._random = random.Random(f"calibration {seed}")
        self._ids = count(1 << 32)
        self.cases = grid(
            engine.config.max_num_seqs, engine.kv.max_model_len, engine.kv.num_tokens,
            engine.config.max_num_batched_tokens,
        )  # fmt: skip

    def measure(self, advance: Callable[[int], None]) -> list[Measured]:
        """`advance` hears of every case that is done. Repeats go round the grid, so that a slow minute hits all."""
        self._run(self.cases[0])
        taken: dict[tuple[Case, int], list[Sample]] = {}
        for _ in range(REPEATS):
            for case in self.cases:
                for number, sample in enumerate(self._run(case)):
                    taken.setdefault((case, number), []).append(sample)
                advance(1)
        return [
            Measured(str(case), samples[0][0], statistics.median(seconds for _, seconds in samples))
            for (case, _), samples in taken.items()
        ]

    def _run(self, case: Case) -> list[Sample]:
        """One measurement of decoding, or one for every chunk of the prompt."""
        self._submit(case.batch, case.context, new=case.steps(self._engine.config.max_num_batched_tokens))
        samples = [self._decoding(case.batch)] if case.batch else []
        if case.prompt:
            self._submit(1, case.prompt, new=1)
            samples, left = [], case.prompt
            while left:
                work, seconds = self._step()
                samples.append((work, seconds))
                left -= work.tokens - case.batch
        self._engine.clear()
        return samples

    def _submit(self, batch: int, length: int, new: int) -> None:
        sampling = SamplingParams(max_tokens=new, temperature=0)
        for _ in range(batch):
            prompt = random_prompt(self._random, length, self._engine.vocab_size)
            self._engine.submit(Request(next(self._ids), prompt, sampling))

    def _decoding(self, batch: int) -> Sample:
        """The median step of several in a row, with the work of the one in their middle."""
        while self._step()[0].sequences < batch:
            pass
        for _ in range(WARM):
            self._step()
        samples = [self._step() for _ in range(DECODED)]
        return samples[DECODED // 2][0], statistics.median(seconds for _, seconds in samples)

    def _step(self) -> Sample:
        events, seconds = self._engine.step()
        if not self._engine.has_work and not events:
            raise LlmserveError(
                "the engine ran out of work in the middle of a measurement; this is a mistake in the grid."
            )
        return self._engine.last_work(), seconds
