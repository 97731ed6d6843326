"""What every HTTP exchange goes through: an id, a limit to its size, and no exception out of it."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve.engine.messages import Stopped
from llmserve.server.engine_client import NotReadyError
from llmserve.server.errors import answer

logger = logging.getLogger(__name__)

MAX_BODY = 32 * 1000 * 1000
MAX_BODY_S = 60
"""How long a client may take to send its body."""

USABLE_ID = re.compile(r"[!-~]{1,200}")


class Edge:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body)
        try:
            exchange.check_announced_size()
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the server stops, and has waited for long enough
            if exchange.answered:
                raise
            await answer(NotReadyError(Stopped())).response(scope["path"])(scope, receive, exchange.send)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # a library in Rust panics with one that is no Exception
            if not isinstance(e, HTTPException):
                logger.exception("Request %s failed", exchange.id)
            if exchange.answered:
                raise  # a response is under way; the server can only break it off
            await answer(e).response(scope["path"])(scope, receive, exchange.send)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self._headers = Headers(scope=scope)
        given = self._headers.get("x-request-id", "")
        self.id = given if USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        self.answered = False
        self._receive = receive
        self._send = send
        self._max_body = max_body
        self._received = 0
        self._deadline: float | None = asyncio.get_running_loop().time() + MAX_BODY_S

    def check_announced_size(self) -> None:
        announced = self._headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The request's body is larger than {self._max_body} bytes; send less.")

    def _left(self) -> float | None:
        """Seconds for the rest of the body; None once it is here, as from then on the client may be silent."""
        return None if self._deadline is None else self._deadline - asyncio.get_running_loop().time()

    async def receive(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), self._left())
        except asyncio.TimeoutError:
            # Closed, because what is left of the body may still come.
            raise HTTPException(
                408,
                f"The request's body took longer than {MAX_BODY_S} seconds; send it faster.",
                {"connection": "close"},
            ) from None
        if not message.get("more_body", False):
            self._deadline = None
        self._received += len(message.get("body", b""))
        if self._received > self._max_body:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            MutableHeaders(scope=message)["x-request-id"] = self.id
        await self._send(message)
