"""A request's body as JSON in which every string is a text.

JSON can write half of a surrogate pair (`"\\ud800"`), which no UTF-8 has: it could be neither tokenised nor told again.
It is refused here, before anyone has to think of it. Knows no endpoint.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from llmserve.errors import RequestError
from llmserve.server.json_size import check_values
from llmserve.server.streaming import encode

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Of a pair, most often: clients in Python write all beyond ASCII so."""


LONG_BODY = 500_000
"""Bytes from which reading takes some milliseconds: then others are served between its parts, though not while one goes
on."""


def read_json(raw: bytes) -> Any:
    """RequestError where a string is no text, or there are too many values; of other bodies that are no JSON in UTF-8
    what Python raises."""
    check_values(raw)
    text = raw.decode("utf-8-sig")
    data = json.loads(text)
    if SURROGATE.search(text):
        for name, value in data.items() if isinstance(data, dict) else [("The body", data)]:
            _check_texts(name, value)
    return data


def _check_texts(name: str, value: Any) -> None:
    try:
        encode([name, value])  # in C: there may be millions of strings
    except UnicodeEncodeError:
        raise RequestError(
            f"{name[:100]} has half of a surrogate pair, which is not valid Unicode; remove it.", param=name
        ) from None


def new_reader() -> Executor:
    """An app's `state.body_reader`: one thread. Of many that read at a time, each would take its turn before others are
    served, and what needs a thread for something short would find none."""
    return ThreadPoolExecutor(1, "bodies")


async def read_beside_others(request: Request, raw: bytes) -> Any:
    """As `read_json`; a long one in the thread of `new_reader` that the request's app has."""
    if len(raw) < LONG_BODY:
        return read_json(raw)
    reader: Executor = request.app.state.body_reader
    return await asyncio.get_running_loop().run_in_executor(reader, read_json, raw)


class JsonRoute(APIRoute):
    """A route whose body FastAPI reads by `read_beside_others`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


class _JsonRequest(Request):
    async def json(self) -> Any:
        return await read_beside_others(self, await self.body())
