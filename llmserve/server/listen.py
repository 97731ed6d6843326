"""The listening socket, and uvicorn behind it without its own ideas about signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmserve.errors import ConfigError
from llmserve.server.errors import RETRY_AFTER_S, ErrorAnswer

logger = logging.getLogger(__name__)

FLUSH_S = 3
"""How long responses that are complete may take to reach their clients when the server stops."""

BACKLOG = 2048
"""Connections that the system keeps for us until we take them."""

TAKEN_AT_ONCE = 64
"""Of those, before the loop does anything else; asyncio logs as many failures where one cannot be taken."""

MOST_FILES = 65536
SPARE_FILES = 128
"""For what is not a connection: the engine's sockets, libraries, logs; and connections that are being turned away."""

IDLE_S = 30
"""How long a connection may go without a complete request head, at first and between requests."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""

CROWDED_IDLE_S = 2
"""The same for a connection beyond the most that there may be."""

SAY_EVERY_S = 10


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address cannot be had. Port 0 takes any that is free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as e:
        raise ConfigError(f"Cannot listen on {host}: {e.strerror or e}; choose another --host.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # from here on a client waits for an answer instead of being refused
    except OSError as e:
        listener.close()
        raise ConfigError(f"Cannot listen on {host}:{port}: {e.strerror}; choose another --port or --host.") from None
    return listener


def url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit() -> None:
    """Every connection is an open file, and the usual limit of 1024 is one for shells."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)
    return files - min(SPARE_FILES, files // 2)


class HttpServer:
    """Serves an app on a socket until `stop`."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        raise_file_limit()
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                http=_Connection,
                backlog=TAKEN_AT_ONCE,
                limit_concurrency=most_connections(),
                timeout_keep_alive=IDLE_S,
                server_header=False,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_LoopErrors())
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def stop(self) -> None:
        """No new connections; responses under way get `FLUSH_S` seconds to end."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for whoever owns the process; see `main`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has made it TAKEN_AT_ONCE


class _Connection(HttpToolsProtocol):
    """Does not wait for ever for a request's head nor keep any amount of it, and has a JSON answer where there are too
    many connections."""

    _patience: asyncio.TimerHandle | None = None
    _idle_s = IDLE_S
    _head_bytes = 0  # of the head that is not complete
    _head_complete = False
    _ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limit, self.limit_concurrency = self.limit_concurrency, None  # uvicorn would refuse everyone, in plain text
        if limit is not None and len(self.connections) > limit:
            self.app, self._idle_s = _turn_away, CROWDED_IDLE_S
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._ended = False
        super().data_received(data)
        if not self._ended:  # or a request's end is among these bytes, and nobody says how many are the next one's head
            self._head_bytes += len(data)
        if not self._head_complete and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request's head is larger than {MAX_HEAD} bytes.")
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_complete, self._head_bytes = False, 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_complete = True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        """A timer runs from the first byte of what is no request yet until it is one; its beginning does not reset it.
        Where no byte came since the last answer, uvicorn's own runs."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._stop_watching()
        elif self._patience is None:
            self._patience = self.loop.call_later(self._idle_s, self.timeout_keep_alive_handler)

    def _stop_watching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    message = "The server has as many connections as it can; try again later, or raise its limit of open files."
    headers = {"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
    answer = ErrorAnswer(503, message, "service_unavailable_error", None, "too_many_connections", headers)
    await answer.response(scope["path"])(scope, receive, send)


class _LoopErrors:
    """asyncio's own handling, but what can happen thousands of times a second is said once in a while."""

    def __init__(self) -> None:
        self._said = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            logger.error("New connections have to wait (%s); raise the limit of open files.", error.strerror)
