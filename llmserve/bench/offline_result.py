"""What was seen of an engine in this process, and the figures computed from that.

Knows when each token came. Loads neither the engine nor torch, so that whoever only shows figures stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmserve.bench.stats import median


@dataclass(frozen=True, slots=True)
class Case:
    batch: int
    prompt_len: int
    new_tokens: int

    @property
    def work(self) -> int:
        """In tokens, a generated one counted as ten: it costs about a whole step, a prompt's only a part of one."""
        return self.prompt_len * self.batch + 10 * self.new_tokens


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run of a case. `times` has, for each sequence, the seconds from the beginning to each of its tokens."""

    case: Case
    times: tuple[tuple[float, ...], ...]

    @property
    def ttft(self) -> float | None:
        return median([own[0] for own in self.times])

    @property
    def tpot(self) -> float | None:
        return median([(own[-1] - own[0]) / (len(own) - 1) for own in self.times])

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second until every sequence has its first token."""
        return self.case.batch * self.case.prompt_len / max(own[0] for own in self.times)

    @property
    def decode_rate(self) -> float | None:
        """New tokens per second while all sequences decode: no prompt left to compute, none at its end.

        None where there was no such time.
        """
        begin, end = max(own[0] for own in self.times), min(own[-1] for own in self.times)
        made = sum(begin < at <= end for own in self.times for at in own)
        return made / (end - begin) if end > begin else None

    @property
    def output_rate(self) -> float:
        """New tokens per second from beginning to end, prefill and all."""
        return sum(map(len, self.times)) / max(own[-1] for own in self.times)


@dataclass(frozen=True, slots=True)
class Row:
    """A case's repetitions."""

    case: Case
    runs: tuple[Timeline, ...]

    def figures(self) -> dict[str, float | int | None]:
        """Medians over the repetitions; times in milliseconds, rates in tokens per second."""
        return {
            "batch": self.case.batch,
            "prompt_len": self.case.prompt_len,
            "new_tokens": self.case.new_tokens,
            "ttft_ms": _milliseconds(median([run.ttft for run in self.runs])),
            "tpot_ms": _milliseconds(median([run.tpot for run in self.runs])),
            "prefill_tok_s": median([run.prefill_rate for run in self.runs]),
            "decode_tok_s": median([run.decode_rate for run in self.runs]),
            "output_tok_s": median([run.output_rate for run in self.runs]),
        }

    def as_json(self) -> dict[str, Any]:
        return {**self.figures(), "token_times_s": [run.times for run in self.runs]}


@dataclass(frozen=True)
class OfflineResult:
    single: tuple[Row, ...]  # one sequence, of each prompt length
    batches: tuple[Row, ...]  # of the shortest prompt length, each batch size
    notes: tuple[str, ...]  # where it is not what was asked for


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
