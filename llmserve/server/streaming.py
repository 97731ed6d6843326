"""Server-sent events: bytes out as they come, a comment now and then to keep the connection, an end when the
client leaves.

Starlette's own StreamingResponse has no keep-alive and does not notice a client that leaves between two chunks;
sse-starlette replaces a method of uvicorn's server when it is imported and keeps a timer running from then on,
and here the process's shutdown has one owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING_S = 15.0
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")
encode = msgspec.json.Encoder().encode


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


class EventStreamResponse(Response):
    """Sends `chunks` until they end or the client is gone; `on_end` is called in every case.

    `ping_s`: seconds of silence until a comment says that the stream goes on; 0: never.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], on_end: Callable[[], None], ping_s: float = PING_S) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # nobody knows it
        self._chunks = chunks
        self._on_end = on_end
        self._ping_s = ping_s
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pings: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._ping_s:
                pings = asyncio.create_task(self._keep_alive(send))
            await until_disconnect(receive, self._send_chunks(send))
            if pings is not None:
                pings.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientDisconnect, OSError):
            pass  # nobody is there to be told anything
        finally:
            if pings is not None:
                pings.cancel()
            self._on_end()

    async def _send_chunks(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        async for chunk in self._chunks:
            self._sent_at = now()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        self._sent_at = now()
        while True:
            await asyncio.sleep(self._sent_at + self._ping_s - now())
            if now() - self._sent_at >= self._ping_s:
                self._sent_at = now()
                await send({"type": "http.response.body", "body": PING, "more_body": True})


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """`work`'s result; raises ClientDisconnect, with `work` cancelled, when the client leaves before."""
    return await until(_disconnected(receive), work, ClientDisconnect)


async def until(end: Coroutine[Any, Any, object], work: Coroutine[Any, Any, T], error: Callable[[], Exception]) -> T:
    """`work`'s result; raises `error()`, with `work` cancelled, when `end` comes before."""
    working = asyncio.create_task(work)
    ending = asyncio.create_task(end)
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise error()
        return working.result()
    finally:
        await _cancelled(working)
        await _cancelled(ending)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
