"""The listening socket, and uvicorn behind it without its own ideas about signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from llmserve.errors import ConfigError

FLUSH_S = 3
"""How long responses that are complete may take to reach their clients when the server stops."""

BACKLOG = 2048


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


class HttpServer:
    """Serves an app on a socket until `stop`."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
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
