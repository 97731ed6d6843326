"""From prompts to text: the requests of one call, their token events added up to deltas of text.

The one path of every answer: a stream shows the deltas, a whole answer is their sum. An event is turned into text as it
comes and added to what waits for its reader, who is woken once for all that came meanwhile: a reader who is slow gets
the same text in fewer deltas, and what waits for him is text and no list of events. Knows the engine client and the
tokenizer; HTTP and OpenAI's shapes are elsewhere, so the command line generates with it too.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from llmserve.errors import EngineDeadError, LlmserveError, RequestError
from llmserve.request import Finish, SamplingParams, TokenEvent, TokenLogprobs
from llmserve.server.engine_client import EngineClient
from llmserve.tokenizer import Detokenizer, StopStrings, Tokenizer

MANY_TEXTS = 256
"""So many pieces of text that wait are made one, which takes less room."""

OVERTIME_S = 5.0
"""How long after a request's `timeout` the engine, which ends it, may be silent until it is ended here."""


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
    shows_stops: bool = False  # the text has the stop string or stop token that ends it
    continues_text: bool = False  # the answer goes on where the prompt's text ends
    shown: frozenset[int] = frozenset()  # special tokens that are text in this answer, by their names
    wants_tokens: bool = False  # each of them, also those that have no text yet; else deltas have none
    generates: bool = True  # False: the engine's one token, which it makes at least, is no part of the answer
    priority: int = 0  # of this and the next two see `Request`: every choice has them
    timeout: float | None = None
    cache_salt: str = ""


class Token(NamedTuple):
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
    generated: int = 0  # tokens that this choice has so far
    tokens: list[Token] = field(default_factory=list)  # where the job wants them
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
    """A running job. Read it once, by `deltas()`, `batches()` or `all_at_once()`; `close()` whatever happens."""

    def __init__(
        self, client: EngineClient, tokenizer: Tokenizer | None, job: Job, observer: Observer | None = None
    ) -> None:
        """Starts it, in a running event loop. Raises NotReadyError, and RequestError where a value is out of range."""
        requests = [
            (prompt, replace(sampling, max_tokens=limit, seed=derived_seed(seed, i)))
            for prompt, limit in zip(job.prompts, job.max_tokens, strict=True)
            for seed in [secrets.randbits(62) if job.seed is None else job.seed]
            for i, sampling in enumerate(_each_choices(job))
        ]
        self.job = job
        self.choices = len(requests)
        self.usage = Usage(prompt_tokens=sum(map(len, job.prompts)))
        self.cached_tokens = [0] * len(job.prompts)  # of each prompt, found in the engine's cache
        self._client = client
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None  # who waits
        self._patient = False  # and wants to hear of the end alone
        self._problem: Exception | None = None  # the end of all
        self._news: dict[int, Choice] = {}  # by index, those that have something to show
        ids = client.submit(requests, self._take, priority=job.priority, timeout=job.timeout, cache_salt=job.cache_salt)
        self._choices = {id: Choice(index, job, tokenizer) for index, id in enumerate(ids)}
        self._running = set(ids)
        overtime = None if job.timeout is None else self._loop.call_later(job.timeout + OVERTIME_S, self._time_is_up)
        self._overtime: asyncio.TimerHandle | None = overtime
        if observer:
            observer.admitted(job)

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """All that is new, again and again. Raises EngineDeadError where a request ends without an answer."""
        while True:
            if not (self._news or self._problem):
                if not self._running:
                    return
                await self._something()
            problem, news = self._problem, self._news
            if news:
                self._news = {}
                yield [delta for choice in news.values() for delta in choice.show()]
            if problem is not None:
                raise problem

    async def deltas(self) -> AsyncIterator[Delta]:
        """One by one; otherwise as `batches`."""
        async for batch in self.batches():
            for delta in batch:
                yield delta

    async def all_at_once(self) -> list[Delta]:
        """When all have ended. Raises EngineDeadError where one did without an answer."""
        self._patient = True
        if self._running and self._problem is None:
            await self._something()
        if self._problem is not None:
            raise self._problem
        return [delta for choice in self._news.values() for delta in choice.show()]

    def close(self) -> None:
        """Aborts what has not ended."""
        for id in self._running:
            self._client.abort(id)
            if self._observer:
                self._observer.finished(id, Finish.ABORT)
        self._running.clear()
        if self._overtime is not None:
            self._overtime.cancel()
            self._overtime = None

    async def _something(self) -> None:
        self._reader = self._loop.create_future()
        await self._reader

    def _take(self, event: TokenEvent) -> None:
        if event.request_id not in self._running:
            return  # ended here, by a stop string, and not yet at the engine
        choice = self._choices[event.request_id]
        try:
            if self._observer:
                self._observer.event(event)
            self._count(choice, event)
            if event.finish in (Finish.ERROR, Finish.ABORT):
                self._ended(event.request_id, event.finish)
                raise failure(event)
            choice.take(event)
            if choice.finish is not None:
                self._ended(event.request_id, choice.finish)
        except Exception as e:  # also a mistake of ours: it ends this call and no other
            self._problem = self._problem or e
        if choice.has_news:
            self._news[choice.index] = choice
        self._wake()

    def _ended(self, request_id: int, finish: Finish) -> None:
        self._running.discard(request_id)
        self._client.abort(request_id)  # where the engine does not know yet: a stop string
        if self._observer:
            self._observer.finished(request_id, finish)

    def _time_is_up(self) -> None:
        """The engine should have said so, and does not: it may be stopped, or at a very long step."""
        for id in list(self._running):
            self._take(TokenEvent(id, None, Finish.TIMEOUT))

    def _wake(self) -> None:
        over = self._problem is not None or not self._running
        wanted = over or (self._news and not self._patient)
        if wanted and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _count(self, choice: Choice, event: TokenEvent) -> None:
        if event.token is not None and self.job.generates:
            self.usage.completion_tokens += 1
        if event.cached_tokens and choice.index % self.job.n == 0:  # a prompt's others find it cached by the first
            self.usage.cached_tokens += event.cached_tokens
            self.cached_tokens[choice.index // self.job.n] += event.cached_tokens


class Choice:
    """One sequence's way from tokens to text. What is taken waits, added up, until it is shown."""

    def __init__(self, index: int, job: Job, tokenizer: Tokenizer | None) -> None:
        self.index = index
        self.finish: Finish | None = None
        self.stop_reason: str | int | None = None
        self.has_news = False
        self._generates = job.generates
        self._eos_token_ids = job.eos_token_ids
        self._min_tokens = job.sampling.min_tokens
        self._wants_tokens = job.wants_tokens
        self._stops = job.stops.search()
        self._shows_stops = job.shows_stops
        self._detokenizer = _detokenizer(tokenizer, job, job.prompts[index // job.n]) if tokenizer else None
        self._count = 0
        self._decoded = 0  # characters out of the detokenizer so far
        self._texts: list[str] = []
        self._tokens: list[Token] = []
        self._prompt_logprobs: list[TokenLogprobs] = []

    def take(self, event: TokenEvent) -> None:
        if event.prompt_logprobs:
            self._prompt_logprobs += event.prompt_logprobs
            self.has_news = True
        if not self._generates:
            if event.finish is not None:
                self._end(event.finish if event.token is None else Finish.LENGTH, None)
            return
        text = self._text_of(event)
        self._decoded += len(text)
        if self._count <= self._min_tokens:
            self._add(text)  # too early to stop, even in part
        else:
            shown, stop = self._stops.feed(text)
            self._add(shown)
            if stop is not None:
                self._add(stop if self._shows_stops else "")
                self._end(Finish.STOP, stop)
                return
        if event.finish is not None:
            self._add(self._stops.end())
            by_token = event.finish is Finish.STOP and event.token not in self._eos_token_ids
            self._end(event.finish, event.token if by_token else None)

    def show(self) -> list[Delta]:
        """What was taken since the last time; of a choice that has ended the end, too."""
        self.has_news = False
        deltas = []
        if self._texts or self._tokens or self._prompt_logprobs:
            text = "".join(self._texts)
            deltas.append(Delta(self.index, text, self._count, self._tokens, self._prompt_logprobs))
            self._texts, self._tokens, self._prompt_logprobs = [], [], []
        if self.finish is not None:
            deltas.append(Delta(self.index, generated=self._count, finish=self.finish, stop_reason=self.stop_reason))
        return deltas

    def _text_of(self, event: TokenEvent) -> str:
        detokenizer, token, text = self._detokenizer, event.token, ""
        if token is not None:
            self._count += 1
            if self._wants_tokens:
                held = detokenizer.held_characters if detokenizer else 0
                self._tokens.append(Token(token, self._decoded + held, event.logprobs))
                self.has_news = True
            if detokenizer and (event.finish is not Finish.STOP or self._shows_stops):
                text = detokenizer.feed(token)
        if detokenizer and event.finish is not None:
            text += detokenizer.end()
        return text

    def _add(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self.has_news = True
            if len(self._texts) == MANY_TEXTS:
                self._texts = ["".join(self._texts)]

    def _end(self, finish: Finish, stop_reason: str | int | None) -> None:
        self.finish, self.stop_reason = finish, stop_reason
        self.has_news = True


def failure(event: TokenEvent) -> LlmserveError:
    """Why a request ended without an answer."""
    if event.refused and event.error:
        return RequestError(event.error)
    return EngineDeadError(event.error or "The server stopped before this answer was complete.")


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
