"""What one request says about the tokens that may be chosen, kept up with its answer token by token.

Nothing is counted anew for a step: what it costs depends on the tokens that came since, and on how many are named. A
sequence that is preempted keeps its rules, since it keeps its tokens. Knows nothing of logits, devices or batches.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from llmserve.request import Request, SamplingParams
from llmserve.runtime.edits import Edits


class Matcher(Protocol):
    """What an answer must be, and how far it has come. RequestError where the grammar cannot go on."""

    def advance(self, token: int) -> None:
        """The answer's next token."""

    def allowed(self, ends: Iterable[int]) -> bytes:
        """What may come next, as `Edits.allowed` has it; `ends` are among it where the answer may end."""

    @property
    def complete(self) -> bool:
        """Whether nothing but the end can come."""


class Rules:
    """Of one request. `edits` is asked for one position after the other, in rising order."""

    def __init__(self, request: Request, vocab_size: int, matcher: Matcher | None = None) -> None:
        sampling = request.sampling
        self._sampling = sampling
        self._matcher = matcher
        self._start = self._end = len(request.prompt)
        self._stops = array("i", sorted(t for t in sampling.stop_token_ids if 0 <= t < vocab_size))
        self._biased = array("i", (token for token, _ in sampling.logit_bias))
        self._biases = array("f", (bias for _, bias in sampling.logit_bias))
        self._allowed = None if sampling.allowed_token_ids is None else mask_of(sampling.allowed_token_ids, vocab_size)
        self._bad_words = _BadWords(sampling.bad_words)
        self._penalised = _Penalised(sampling, request.prompt)

    def edits(self, tokens: Sequence[int], end: int) -> Edits | None:
        """For the row that foretells position `end` of the sequence; those before it are known. None: none.

        RequestError where the grammar cannot go on.
        """
        for position in range(self._end, end):
            self._penalised.add(tokens[position])
            if self._matcher is not None:
                self._matcher.advance(tokens[position])
        self._end = end
        banned = self._bad_words.after(tokens, self._start, end)
        allowed = self._allowed
        too_early = end - self._start < self._sampling.min_tokens
        if self._matcher is not None:
            # A grammar that leaves nothing but the end goes before min_tokens: there is no token to go on with.
            too_early = too_early and not self._matcher.complete
            grammatical = self._matcher.allowed(self._stops)
            allowed = grammatical if allowed is None else _both(allowed, grammatical)
        if too_early:
            banned = banned + self._stops
        if allowed is None and not (banned or self._biased or self._penalised.seen):
            return None
        return Edits(
            allowed, banned, self._biased, self._biases, self._penalised.seen, self._penalised.counts,
            self._sampling.repetition_penalty, self._sampling.frequency_penalty, self._sampling.presence_penalty,
        )  # fmt: skip


class _Penalised:
    """How often each token that penalties are for is in the answer; of the prompt only where repetition counts."""

    def __init__(self, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        repetition = sampling.repetition_penalty != 1
        self._counts_any = repetition or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self.seen = array("i", dict.fromkeys(prompt) if repetition else ())
        self.counts = array("i", bytes(4 * len(self.seen)))
        self._places = {token: place for place, token in enumerate(self.seen)}

    def add(self, token: int) -> None:
        if not self._counts_any:
            return
        place = self._places.setdefault(token, len(self.seen))
        if place == len(self.seen):
            self.seen.append(token)
            self.counts.append(0)
        self.counts[place] += 1


class _BadWords:
    """Sequences of tokens of which the last is banned where the answer ends with all before it."""

    def __init__(self, words: Iterable[tuple[int, ...]]) -> None:
        self._always = array("i", (word[0] for word in words if len(word) == 1))
        self._after: dict[int, list[tuple[list[int], int]]] = {}  # by the last token but one
        for word in words:
            if len(word) > 1:
                self._after.setdefault(word[-2], []).append((list(word[:-1]), word[-1]))

    def after(self, tokens: Sequence[int], start: int, end: int) -> array[int]:
        if end == start or not (begun := self._after.get(tokens[end - 1])):
            return self._always
        complete = [last for before, last in begun if list(tokens[max(start, end - len(before)) : end]) == before]
        return self._always + array("i", complete)


def mask_of(tokens: Iterable[int], vocab_size: int) -> bytes:
    """`Edits.allowed` that allows these and no other."""
    mask = bytearray(-(-vocab_size // 32) * 4)
    for token in tokens:
        if 0 <= token < vocab_size:
            mask[token >> 3] |= 1 << (token & 7)
    return bytes(mask)


def _both(a: bytes, b: bytes) -> bytes:
    """What both allow, in the length of the first."""
    return (int.from_bytes(a, "little") & int.from_bytes(b[: len(a)], "little")).to_bytes(len(a), "little")
