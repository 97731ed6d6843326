"""POST /v1/embeddings: a vector of length 1 for each input, of the model's last hidden states."""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from llmserve.errors import RequestError
from llmserve.request import NO_SAMPLING, Finish, Pooling, TokenEvent
from llmserve.server.errors import TooLateError, shown
from llmserve.server.generation import OVERTIME_S, failure
from llmserve.server.json_body import JsonRoute
from llmserve.server.metrics import CallObserver
from llmserve.server.protocol.embedding import EmbeddingBody
from llmserve.server.serving import Serving
from llmserve.server.streaming import encode, until_disconnect

Prompts = Sequence[tuple[int, ...]]

MANY_BYTES = 400_000
"""Of vectors, which as text take long enough to hold up other requests; it is then written in a thread."""


def embedding_routes(serving: Serving, default: Pooling) -> APIRouter:
    """`default`: what a vector is made of where a request does not say."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        serving.check_call(body.model, len(body.input), "input")
        _check_vectors(serving)
        _check_dimensions(serving, body.dimensions)
        prompts = await _prompts(serving, body)
        for prompt in prompts:
            serving.check_whole_prompt(prompt, "input")
        serving.check_room(len(prompts))
        work = _vectors(serving, prompts, body, Pooling(body.pooling or default))
        vectors = await until_disconnect(request.receive, work)
        tokens = sum(map(len, prompts))
        head = {"model": serving.model_name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        told = partial(_answer, head, vectors, _in_base64 if body.encoding_format == "base64" else _in_floats)
        many = sum(map(len, vectors)) > MANY_BYTES
        return Response(await asyncio.to_thread(told) if many else told(), media_type="application/json")

    return routes


def _check_vectors(serving: Serving) -> None:
    if not serving.capabilities.pooling:
        raise RequestError(
            f"This model's engine ({serving.capabilities.executor}) makes no vectors; serve the model with a native "
            "engine for that.",
            param="model",
            code="unsupported_parameter",
        )


def _check_dimensions(serving: Serving, dimensions: int | None) -> None:
    size = serving.manifest.model.hidden_size
    if dimensions not in (None, size):
        raise RequestError(
            f"dimensions cannot be {shown(dimensions)}: this model's vectors have {size}, and it was not trained to "
            "say anything in fewer; leave it out.",
            param="dimensions",
            code="unsupported_parameter",
        )


async def _prompts(serving: Serving, body: EmbeddingBody) -> list[tuple[int, ...]]:
    texts = [each for each in body.input if isinstance(each, str)]
    special = body.add_special_tokens is not False
    encoded = iter(await serving.encode(texts, add_special_tokens=special, param="input") if texts else ())
    return [next(encoded) if isinstance(each, str) else tuple(each) for each in body.input]


async def _vectors(serving: Serving, prompts: Prompts, body: EmbeddingBody, pooling: Pooling) -> list[bytes]:
    """One of each prompt, little-endian fp32. What has not ended when this does is aborted."""
    ends = _Ends(serving.metrics.observer(), len(prompts))
    ids = serving.client.submit(
        [(prompt, NO_SAMPLING) for prompt in prompts],
        ends.take,
        priority=body.priority or 0,
        timeout=body.timeout,
        cache_salt=body.cache_salt or "",
        pooling=pooling,
    )
    for prompt in prompts:
        ends.observer.admitted_prompt(len(prompt))
    overtime = None if body.timeout is None else body.timeout + OVERTIME_S
    try:
        await asyncio.wait_for(ends.all, overtime)
    except asyncio.TimeoutError:
        raise TooLateError(body.timeout or 0) from None
    finally:
        for id in ids:
            if id not in ends.by_id:
                serving.client.abort(id)
                ends.observer.finished(id, Finish.ABORT)
    return [_vector(ends.by_id[id], body.timeout) for id in ids]


def _vector(end: TokenEvent, timeout: float | None) -> bytes:
    if end.finish is Finish.TIMEOUT:
        raise TooLateError(timeout or 0)
    if end.vector is None:
        raise failure(end)
    return end.vector


class _Ends:
    """The final events of a call's requests, as they come."""

    def __init__(self, observer: CallObserver, count: int) -> None:
        self.observer = observer
        self.by_id: dict[int, TokenEvent] = {}
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count = count

    def take(self, event: TokenEvent) -> None:
        self.observer.event(event)
        if event.finish is not None:
            self.observer.finished(event.request_id, event.finish)
            self.by_id[event.request_id] = event
            if len(self.by_id) == self._count and not self.all.done():
                self.all.set_result(None)


def _answer(head: dict[str, Any], vectors: Sequence[bytes], told: Callable[[bytes], Any]) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": told(vector)} for index, vector in enumerate(vectors)]
    return encode({"object": "list", "data": data, **head})


def _in_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _in_floats(vector: bytes) -> list[Any]:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
