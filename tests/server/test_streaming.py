"""Server-sent events as such: keep-alive, and an end in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from llmserve.server.streaming import PING, EventStreamResponse


class Connection:
    """An ASGI server's end of a response."""

    def __init__(self, *, leaves_after: int | None = None, broken: bool = False) -> None:
        self.sent: list[Any] = []
        self.ended = 0
        self._leaves_after = leaves_after
        self._broken = broken
        self._left = asyncio.Event()

    async def receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._broken:
            raise OSError
        self.sent.append(message)
        if len(self.sent) == self._leaves_after:
            self._left.set()

    def end(self) -> None:
        self.ended += 1

    async def run(self, chunks: AsyncIterator[bytes], ping_s: float = 10) -> None:
        response = EventStreamResponse(chunks, self.end, ping_s)
        await response({"type": "http"}, self.receive, self.send)


async def forever() -> AsyncIterator[bytes]:
    while True:
        yield b"x"
        await asyncio.sleep(0)


async def slow() -> AsyncIterator[bytes]:
    yield b"a"
    await asyncio.sleep(0.1)
    yield b"b"


def test_a_silence_is_filled_with_comments() -> None:
    async def live() -> Connection:
        connection = Connection()
        await connection.run(slow(), ping_s=0.02)
        return connection

    connection = asyncio.run(live())
    start, *bodies = connection.sent
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert dict(start["headers"])[b"cache-control"] == b"no-store"
    assert b"content-length" not in dict(start["headers"])
    assert [body["more_body"] for body in bodies] == [True] * (len(bodies) - 1) + [False]
    parts = [body["body"] for body in bodies]
    assert PING in parts
    assert [part for part in parts if part != PING] == [b"a", b"b", b""]
    assert connection.ended == 1


def test_it_ends_when_the_client_leaves() -> None:
    async def live() -> Connection:
        connection = Connection(leaves_after=5)
        await asyncio.wait_for(connection.run(forever()), 5)
        return connection

    connection = asyncio.run(live())
    assert connection.ended == 1
    assert len(connection.sent) < 10


def test_it_ends_when_nothing_can_be_sent() -> None:
    async def live() -> Connection:
        connection = Connection(broken=True)
        await connection.run(forever())
        return connection

    assert asyncio.run(live()).ended == 1
