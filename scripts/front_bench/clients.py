"""Clients that take bytes off their sockets and look at them when all is over, so that they cost next to nothing.

Runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from llmserve.tokenizer import Tokenizer

from .answers import answer
from .cores import stay_on


@dataclass(frozen=True)
class Run:
    """What came of one run's streams; times by time.perf_counter."""

    began: float  # the first chunk with text
    ended: float  # the last byte
    tokens: int
    chunks: int  # with text
    problems: list[str]  # what is not as it should be, a line a stream


class _Stream(asyncio.Protocol):
    """One answer, as it came off the socket."""

    def __init__(self, request: bytes) -> None:
        self.received = bytearray()
        self.first_text: float | None = None
        self.last = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.last = time.perf_counter()
        if self.first_text is None and b'"content":"' in data.replace(b'"content":""', b""):
            self.first_text = self.last

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


def run_clients(
    folder: Path, model: str, port: int, streams: int, lengths: Sequence[int], cores: set[int], results: Connection
) -> None:
    """`lengths`: of the answers of each run, in tokens. Sends a Run to `results` after each."""
    stay_on(cores)
    tokenizer = Tokenizer.load(folder)
    for length in lengths:
        received = asyncio.run(_all(model, port, streams, length))
        results.send(_judged(tokenizer, received, length))


async def _all(model: str, port: int, streams: int, length: int) -> list[_Stream]:
    loop = asyncio.get_running_loop()
    answers = []
    for seed in range(streams):
        request = _request(model, seed, length)
        _, stream = await loop.create_connection(lambda request=request: _Stream(request), "127.0.0.1", port)
        answers.append(stream)
    for stream in answers:
        await stream.ended
    return answers


def _request(model: str, seed: int, length: int) -> bytes:
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": model, "messages": messages, "seed": seed, "max_tokens": length, "stream": True}
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: front\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _judged(tokenizer: Tokenizer, streams: list[_Stream], length: int) -> Run:
    chunks, problems = 0, []
    for seed, stream in enumerate(streams):
        try:
            texts = _texts(bytes(stream.received))
        except (ValueError, KeyError, IndexError) as e:
            problems.append(f"stream {seed} cannot be read: {e!r}")
            continue
        chunks += len(texts)
        if "".join(texts) != tokenizer.decode(answer(tokenizer, seed, length)):
            problems.append(f"stream {seed} has another text than its tokens")
    began = min(stream.first_text or stream.last for stream in streams)
    return Run(began, max(stream.last for stream in streams), length * len(streams), chunks, problems)


def _texts(received: bytes) -> list[str]:
    """The texts of an answer's chunks. ValueError where it is no stream that ended as it should."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(received[:300])
    *events, done, rest = _unchunked(body).decode().split("\n\n")
    if (done, rest) != ("data: [DONE]", ""):
        raise ValueError(f"it ends in {done + rest!r}")
    chunks = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events if event[0] != ":"]
    if [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] != ["length"]:
        raise ValueError("it has no end, or several")
    return [text for chunk in chunks if (text := chunk["delta"].get("content"))]


def _unchunked(body: bytes) -> bytes:
    """HTTP's chunks put together."""
    parts, at = [], 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
