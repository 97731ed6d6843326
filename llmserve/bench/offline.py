"""An engine in this process, measured: prefill and decode of one sequence, then batches of growing size.

Drives the engine step by step and reads the clock after each; it knows no text, no server, and prints nothing.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llmserve.bench.load import random_prompt
from llmserve.bench.offline_result import Case, OfflineResult, Row, Timeline
from llmserve.bench.progress import BenchProgress
from llmserve.bench.settings import OfflineSettings
from llmserve.engine.offline import OfflineEngine
from llmserve.errors import ConfigError, LlmserveError
from llmserve.request import Finish, Request, SamplingParams

WARMUP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine at hand can take."""

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    kv_tokens: int
    block_size: int

    def holds(self, sequences: int, length: int) -> bool:
        """All at once, so that none has to wait or to be computed twice."""
        blocks = -(-length // self.block_size)
        return sequences <= self.max_num_seqs and sequences * blocks * self.block_size <= self.kv_tokens


@dataclass(frozen=True)
class Plan:
    single: tuple[Case, ...]
    batches: tuple[Case, ...]
    notes: tuple[str, ...]

    def work(self, repeats: int) -> int:
        return repeats * sum(case.work for case in (*self.single, *self.batches))


def make_plan(settings: OfflineSettings, limits: Limits) -> Plan:
    """Lengths and batches within the limits, with a note on each that was not. ConfigError where nothing is left."""
    new = settings.new_tokens
    longest = min(limits.max_model_len, limits.kv_tokens) - new
    if longest < 1:
        raise ConfigError(
            f"--new-tokens {new} leaves no room for a prompt in a model length of {limits.max_model_len}; lower it."
        )
    notes = []
    if too_long := [length for length in settings.prompt_lens if length > longest]:
        listed = ", ".join(map(str, too_long))
        notes.append(
            f"prompts have {longest} tokens and not {listed}: it is the most that leaves room for {new} new ones."
        )
    lengths = sorted({min(length, longest) for length in settings.prompt_lens})
    sizes = [size for size in settings.batch_sizes if limits.holds(size, lengths[0] + new)]
    if too_many := [size for size in settings.batch_sizes if size not in sizes]:
        listed = ", ".join(map(str, too_many))
        notes.append(f"batches of {listed} are left out: --max-num-seqs or the KV cache does not hold them at once.")
    single = tuple(Case(1, length, new) for length in lengths)
    return Plan(single, tuple(Case(size, lengths[0], new) for size in sizes), tuple(notes))


class Bench:
    """An engine and the prompts it gets: drawn anew for every run, so that no prefix is found in the cache."""

    def __init__(self, offline: OfflineEngine, vocab_size: int, seed: int) -> None:
        self._engine = offline.engine
        self._vocab_size = vocab_size
        self._random = random.Random(seed)
        self._ids = itertools.count()

    def warm_up(self, case: Case) -> None:
        """The first run of a process is slower: threads start, memory is touched."""
        self.run(replace(case, new_tokens=min(WARMUP_TOKENS, case.new_tokens)))

    def run(self, case: Case) -> Timeline:
        requests = self._requests(case)
        times: dict[int, list[float]] = {request.id: [] for request in requests}
        began = time.perf_counter()
        for request in requests:
            self._engine.submit(request)
        while self._engine.has_work:
            events = self._engine.step()
            now = time.perf_counter() - began
            for event in events:
                if event.finish is Finish.ERROR:
                    raise LlmserveError(event.error or "the engine ended a request in an error and did not say why.")
                if event.token is not None:
                    times[event.request_id].append(now)
        return Timeline(case, tuple(map(tuple, times.values())))

    def _requests(self, case: Case) -> Sequence[Request]:
        sampling = SamplingParams(max_tokens=case.new_tokens, temperature=0)  # without stop tokens, so to the end
        return [
            Request(next(self._ids), random_prompt(self._random, case.prompt_len, self._vocab_size), sampling)
            for _ in range(case.batch)
        ]


def run_plan(bench: Bench, plan: Plan, repeats: int, progress: BenchProgress) -> OfflineResult:
    def rows(cases: Sequence[Case]) -> Iterator[Row]:
        for case in cases:
            progress.begin(f"{case.batch} × {case.prompt_len} tokens")
            runs = []
            for _ in range(repeats):
                runs.append(bench.run(case))
                progress.advance(case.work)
            yield Row(case, tuple(runs))

    bench.warm_up(plan.single[0])
    return OfflineResult(tuple(rows(plan.single)), tuple(rows(plan.batches)), plan.notes)
