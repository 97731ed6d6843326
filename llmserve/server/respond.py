"""Answering with a generation: as a stream of chunks, or as one body that is their sum.

What differs between chat and completions is a `Format`; that a stream, put together, is the whole answer holds
for both, because both come from the same deltas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from fastapi import Request, Response

from llmserve.request import Finish, TokenLogprobs
from llmserve.server.errors import ErrorAnswer, answer
from llmserve.server.generation import Delta, Generation, Job, Token, Usage
from llmserve.server.streaming import DONE, PING_S, EventStreamResponse, encode, event, until_disconnect

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for an answer that nobody waits for; no client ever sees it."""

MANY_TOKENS = 4096
"""Of which, and of the likeliest ones beside them, is told in the event loop: a few milliseconds."""


@dataclass(slots=True)
class Whole:
    """A choice, complete."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens += delta.tokens
        self.prompt_logprobs += delta.prompt_logprobs
        self.finish = delta.finish or self.finish
        self.stop_reason = delta.stop_reason if delta.finish else self.stop_reason


class WholeFormat(Protocol):
    """One endpoint's JSON of a whole answer."""

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]: ...


class Format(WholeFormat, Protocol):
    """And of a stream."""

    include_usage: bool

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """The chunks that come before any token."""
        ...

    def chunks(self, delta: Delta) -> list[dict[str, Any]]: ...

    def usage_chunk(self, usage: Usage) -> dict[str, Any]: ...


async def respond(
    request: Request,
    generation: Generation,
    format: Format,
    *,
    stream: bool,
    continuous_usage: bool = False,
    ping_s: float = PING_S,
) -> Response:
    """`continuous_usage`: a stream's chunks tell what their choice used so far; `ping_s` as in EventStreamResponse."""
    if stream:
        chunks = _chunks(generation, format, continuous_usage)
        return EventStreamResponse(chunks, on_end=generation.close, ping_s=ping_s)
    return await respond_whole(request, generation, format)


async def respond_whole(request: Request, generation: Generation, format: WholeFormat) -> Response:
    """Raises ClientDisconnect."""
    choices = await collect(request, generation)
    tokens = generation.usage.completion_tokens + _prompts_tokens(generation)
    content = await _made(is_long(generation.job, tokens), lambda: encode(format.body(choices, generation.usage)))
    return Response(content, media_type="application/json")


def is_long(job: Job, tokens: int) -> bool:
    """Whether telling of so many tokens takes so long that others would wait for theirs."""
    sampling = job.sampling
    return sampling.prompt_logprobs is not None or tokens * (1 + (sampling.logprobs or 0)) > MANY_TOKENS


def _prompts_tokens(generation: Generation) -> int:
    """As if each choice told of its prompt, as with `echo` it does."""
    return generation.usage.prompt_tokens * generation.job.n


async def _made(beside: bool, make: Callable[[], bytes]) -> bytes:
    """`beside` others' requests: in a thread."""
    return await asyncio.to_thread(make) if beside else make()


async def collect(request: Request, generation: Generation) -> list[Whole]:
    """All of it. Raises ClientDisconnect where the client leaves before; what has not ended then is aborted."""
    try:
        return await until_disconnect(request.receive, _collect(generation))
    finally:
        generation.close()


async def _collect(generation: Generation) -> list[Whole]:
    choices = [Whole(index) for index in range(generation.choices)]
    for delta in await generation.all_at_once():
        choices[delta.index].add(delta)
    return choices


async def _chunks(generation: Generation, format: Format, continuous_usage: bool) -> AsyncIterator[bytes]:
    """Events, joined where several are there."""
    so_far = _UsageSoFar(generation, format) if continuous_usage else None

    def events(chunks: Iterable[dict[str, Any]]) -> bytes:
        return b"".join(map(event, chunks if so_far is None else map(so_far.added_to, chunks)))

    def told(batch: list[Delta]) -> bytes:
        return events(chunk for delta in batch for chunk in format.chunks(delta))

    job = generation.job
    try:
        many = is_long(job, _prompts_tokens(generation))
        if opening := await _made(many, lambda: events(format.opening(generation.choices))):
            yield opening
        async for batch in generation.batches():
            if so_far is not None:
                so_far.take(batch)
            if chunks := await _made(
                is_long(job, 0), partial(told, batch)
            ):  # with them comes what is known of a prompt
                yield chunks
        if format.include_usage:
            yield event(format.usage_chunk(generation.usage))
    except Exception as e:
        # The status is sent; what is left is to say so in the stream, and to end it as every stream ends.
        yield event(problem_of(e).body())
    yield DONE


def problem_of(error: Exception) -> ErrorAnswer:
    """What a stream says of the error that ends it; where that is ours, the log has it."""
    problem = answer(error)
    if problem.code == "internal_error":
        logger.error("A stream ended in an error", exc_info=error)
    return problem


class _UsageSoFar:
    """What each choice of a stream has used."""

    def __init__(self, generation: Generation, format: Format) -> None:
        self._generation = generation
        self._format = format
        self._generated: dict[int, int] = {}

    def take(self, deltas: list[Delta]) -> None:
        self._generated |= {delta.index: delta.generated for delta in deltas}

    def added_to(self, chunk: dict[str, Any]) -> dict[str, Any]:
        job, [choice] = self._generation.job, chunk["choices"]
        prompt = choice["index"] // job.n
        generated = self._generated.get(choice["index"], 0)
        usage = Usage(len(job.prompts[prompt]), generated, self._generation.cached_tokens[prompt])
        return chunk | {"usage": self._format.usage_chunk(usage)["usage"]}
