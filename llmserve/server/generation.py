"""From prompts to text: the requests of one call, their token events added up to deltas of text.

The one path of every answer: a stream shows the deltas, a whole answer is their sum. Knows the engine client and
the tokenizer; HTTP and OpenAI's shapes are elsewhere, so the command line generates with it too.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from llmserve.errors import EngineDeadError
from llmserve.request import Finish, SamplingParams, TokenEvent, TokenLogprobs
from llmserve.server.engine_client import EngineClient
from llmserve.tokenizer import Detokenizer, StopStrings, Tokenizer


@dataclass(frozen=True)
class Job:
    """What one call asks for: `n` choices for each prompt, numbered prompt by prompt."""

    prompts: Sequence[tuple[int, ...]]
    sampling: SamplingParams  # its seed is not used: see `seed`
    max_tokens: Sequence[int]  # of each prompt
    eos_token_ids: frozenset[int] = frozenset()  # those of sampling.stop_token_ids that are the model's own
    n: int = 1
    seed: int | None = None  # None: drawn for each prompt
    stops: StopStrings = field(default_factory=StopStrings)
    continues_text: bool = False  # the answer goes on where the prompt's text ends
    shown: frozenset[int] = frozenset()  # special tokens that are text in this answer, by their names
    wants_tokens: bool = False  # also tokens that have no text yet
    priority: int = 0  # of this and the next two see `Request`: every choice has them
    timeout: float | None = None
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, and where in the choice's text it begins."""

    id: int
    offset: int
    logprobs: TokenLogprobs | None


@dataclass(slots=True)
class Delta:
    """What is new of one choice. The last delta of a choice has `finish`, and nothing else.

    A prompt's `prompt_logprobs` are the first of its choices': they depend on the prompt alone.
    """

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # of the prompt's next ones
    finish: Finish | None = None
    stop_reason: str | int | None = None  # the stop string or stop token id; None: the model's own end


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Observer(Protocol):
    """Who counts and times; see `metrics`."""

    def admitted(self, job: Job) -> None: ...

    def event(self, event: TokenEvent) -> None: ...

    def finished(self, request_id: int, reason: Finish) -> None: ...


class Generation:
    """A running job. Iterate over `deltas()` once; `close()` whatever happens."""

    def __init__(
        self, client: EngineClient, tokenizer: Tokenizer | None, job: Job, observer: Observer | None = None
    ) -> None:
        """Starts it. Raises NotReadyError, and RequestError where a value is out of range."""
        requests = [
            (prompt, replace(sampling, max_tokens=limit, seed=derived_seed(seed, i)))
            for prompt, limit in zip(job.prompts, job.max_tokens, strict=True)
            for seed in [secrets.randbits(62) if job.seed is None else job.seed]
            for i, sampling in enumerate(_each_choices(job))
        ]
        self.job = job
        self.choices = len(requests)
        self.usage = Usage(prompt_tokens=sum(map(len, job.prompts)))
        self._stream = client.submit(requests, priority=job.priority, timeout=job.timeout, cache_salt=job.cache_salt)
        self._choices = {id: _Choice(index, job, tokenizer) for index, id in enumerate(self._stream.ids)}
        self._observer = observer
        if observer:
            observer.admitted(job)

    async def deltas(self) -> AsyncIterator[Delta]:
        """Raises EngineDeadError where a request ends without an answer."""
        async for event in self._stream:
            choice = self._choices[event.request_id]
            if self._observer:
                self._observer.event(event)
            self._count(choice, event)
            delta = choice.take(event)
            if choice.finish is not None:
                self._stream.abort(event.request_id)  # where the engine does not know yet: a stop string
                if self._observer:
                    self._observer.finished(event.request_id, choice.finish)
            if choice.finish in (Finish.ERROR, Finish.ABORT):
                raise EngineDeadError(event.error or "The server stopped before this answer was complete.")
            if delta.text or delta.prompt_logprobs or (delta.tokens and self.job.wants_tokens):
                yield delta
            if choice.finish is not None:
                yield Delta(choice.index, finish=choice.finish, stop_reason=choice.stop_reason)

    def close(self) -> None:
        """Aborts what has not ended."""
        for id, choice in self._choices.items():
            if choice.finish is None and self._observer:
                self._observer.finished(id, Finish.ABORT)
                choice.finish = Finish.ABORT
        self._stream.close()

    def _count(self, choice: _Choice, event: TokenEvent) -> None:
        if event.token is not None:
            self.usage.completion_tokens += 1
        if choice.index % self.job.n == 0:  # a prompt's other choices find it cached by the first
            self.usage.cached_tokens += event.cached_tokens


class _Choice:
    """One sequence's way from tokens to text."""

    def __init__(self, index: int, job: Job, tokenizer: Tokenizer | None) -> None:
        self.index = index
        self.finish: Finish | None = None
        self.stop_reason: str | int | None = None
        self._eos_token_ids = job.eos_token_ids
        self._min_tokens = job.sampling.min_tokens
        self._stops = job.stops.search()
        self._detokenizer = _detokenizer(tokenizer, job, job.prompts[index // job.n]) if tokenizer else None
        self._tokens = 0
        self._decoded = 0  # characters out of the detokenizer so far

    def take(self, event: TokenEvent) -> Delta:
        delta = Delta(self.index, prompt_logprobs=list(event.prompt_logprobs))
        text = ""
        if event.token is not None:
            held = self._detokenizer.held_characters if self._detokenizer else 0
            delta.tokens = [Token(event.token, self._decoded + held, event.logprobs)]
            self._tokens += 1
            if event.finish is not Finish.STOP and self._detokenizer:
                text += self._detokenizer.feed(event.token)
        if event.finish is not None and self._detokenizer:
            text += self._detokenizer.end()
        self._decoded += len(text)
        if self._tokens <= self._min_tokens:
            delta.text = text  # too early to stop, even in part
        else:
            delta.text, stop = self._stops.feed(text)
            if stop is not None:
                self.finish, self.stop_reason = Finish.STOP, stop
                return delta
        if event.finish is not None:
            delta.text += self._stops.end()
            self.finish = event.finish
            if event.finish is Finish.STOP and event.token not in self._eos_token_ids:
                self.stop_reason = event.token
        return delta


def _each_choices(job: Job) -> list[SamplingParams]:
    """What the choices of a prompt are sampled with, but for their seeds: the prompt is told of once."""
    rest = replace(job.sampling, prompt_logprobs=None)
    return [job.sampling, *(rest for _ in range(job.n - 1))]


def _detokenizer(tokenizer: Tokenizer, job: Job, prompt: tuple[int, ...]) -> Detokenizer:
    prompt_has_text = not all(map(tokenizer.is_silent, prompt))
    return Detokenizer(tokenizer, shown=job.shown, continues_text=job.continues_text and prompt_has_text)


def text_and_tokens(
    tokenizer: Tokenizer | None, ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
) -> tuple[str, list[Token]]:
    """A prompt as if it had been generated."""
    text, tokens = "", []
    detokenizer = Detokenizer(tokenizer) if tokenizer else None
    for id, known in zip(ids, logprobs, strict=True):
        held = detokenizer.held_characters if detokenizer else 0
        tokens.append(Token(id, len(text) + held, known))
        text += detokenizer.feed(id) if detokenizer else ""
    return text + (detokenizer.end() if detokenizer else ""), tokens


def derived_seed(seed: int, choice: int) -> int:
    """Choice 0 is the answer that n=1 gives; every other has a stream of random numbers of its own.

    Any integer is a seed, also a negative one.
    """
    if choice == 0:
        return seed % 2**63
    digest = hashlib.blake2b(f"{seed % 2**63}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**63
