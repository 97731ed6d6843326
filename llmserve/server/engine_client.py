"""The front's end of the wire to engine rank 0: requests go out, their token events come in.

Knows requests and events by id, and whether the engine is there. No HTTP, no text.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from llmserve.engine.endpoint import forget
from llmserve.engine.messages import (
    Abort,
    Drain,
    Draining,
    Events,
    Failed,
    Loading,
    Ready,
    Stats,
    Stopped,
    Submit,
    ToEngine,
    decode_to_front,
    encode,
)
from llmserve.errors import ConfigError, LlmserveError
from llmserve.request import Finish, Pooling, Request, SamplingParams, TokenEvent

EngineState = Loading | Ready | Draining | Stopped | Failed
"""The engine's last word on itself; `Failed` also where it could not say so any more."""

REMEMBERED_ENDS = 256
"""Of so many requests it is known when they ended."""

TAKE_IN_S = 0.001
"""How long messages are taken in one after the other before the loop does anything else. What came for a request
meanwhile leaves as one chunk, so that a front which is slower than its engine falls behind in chunks, not in time."""

QUIET_MS = 100
"""How long nothing must arrive from an engine that is gone until all it sent counts as read."""


Take = Callable[[TokenEvent], None]
"""Whoever waits for a request is called with each of its events as it comes. It must not raise."""


class NotReadyError(LlmserveError):
    """No request can be taken in this state."""

    def __init__(self, state: EngineState) -> None:
        match state:
            case Loading():
                reason = "The model is still loading; try again in a few seconds."
            case Draining() | Stopped():
                reason = "The server is shutting down; send the request to another one."
            case Failed(error):
                reason = f"The engine is not running: {error}"
            case Ready():
                raise ValueError("a ready engine takes requests")
        super().__init__(reason)
        self.state = state


class EngineClient:
    """One engine. Use as an async context manager: it listens at `endpoint` from the beginning to the end."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.state: EngineState = Loading(phase="starting", done=0, total=0)
        self.ready: Ready | None = None  # what the engine can hold, once it has said so
        self.stats: Stats | None = None
        self.ended_at: deque[float] = deque(maxlen=REMEMBERED_ENDS)  # when requests ended, by time.monotonic
        self.connected = asyncio.Event()
        self.refuses = asyncio.Event()  # no request is taken any more: it is draining, or has ended
        self.ended = asyncio.Event()  # the state is Stopped or Failed: final
        self._ids = itertools.count()
        self._open: dict[int, Take | None] = {}  # None: nobody waits for it any more, and the engine still has it
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> EngineClient:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PAIR)
        # What waits in the socket is bounded by the requests that are open; a limit here would lose messages.
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._direct: zmq.Socket[bytes] = zmq.Socket.shadow(
            self._socket.underlying
        )  # the same, for what is there already
        # Watched before anyone can connect, so that no connection is missed.
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as e:
            self._close()
            raise ConfigError(f"Cannot wait for the engine at {self.endpoint}: {e.strerror}.") from None
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch_connection())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.engine_died("The server stopped.")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close()

    @property
    def open_requests(self) -> int:
        """Those submitted whose end the engine has not told: also those that were aborted meanwhile, as long as it may
        be at work on them."""
        return len(self._open)

    def submit(
        self,
        requests: Iterable[tuple[tuple[int, ...], SamplingParams]],
        take: Take,
        *,
        priority: int = 0,
        timeout: float | None = None,
        cache_salt: str = "",
        pooling: Pooling | None = None,
    ) -> list[int]:
        """Starts every (prompt, sampling) and returns their ids, in order. Raises NotReadyError.

        `take` gets the events of all of them, and of each exactly one that is final, unless it is aborted before.
        The rest is what they share, as `Request` has it.
        """
        if not isinstance(self.state, Ready):
            raise NotReadyError(self.state)
        prepared = [
            Request(next(self._ids), prompt, sampling, priority, timeout, cache_salt, pooling)
            for prompt, sampling in requests
        ]
        for request in prepared:
            self._open[request.id] = take
            self._send(Submit(request))
        return [request.id for request in prepared]

    def abort(self, request_id: int) -> None:
        """Nobody waits for this request any more: no event of it is told from now on. Of no effect where it ended."""
        if self._open.get(request_id) is not None:
            self._open[request_id] = None
            self._send(Abort(request_id))

    async def wait_ready(self) -> Ready:
        """Raises NotReadyError when the engine ends before it is ready."""
        while not isinstance(self.state, Ready):
            if not isinstance(self.state, Loading):
                raise NotReadyError(self.state)
            self._changed.clear()
            await self._changed.wait()
        return self.state

    def drain(self, timeout: float) -> None:
        """Takes no more requests, and has the engine finish those it has within `timeout` seconds and stop.

        `ended` is set when it has.
        """
        if not self.ended.is_set():
            self._enter(Draining())
            if self.connected.is_set():
                self._send(Drain(timeout))

    def stop_waiting(self) -> None:
        """No engine is wanted any more, and none is ready that would have to stop first."""
        if not self.ended.is_set():
            self._enter(Stopped())

    async def settle(self) -> None:
        """Returns when all that the engine sent has been read. For after its end: the reason may be in it."""
        while await self._socket.poll(QUIET_MS):
            await asyncio.sleep(0.001)

    def engine_died(self, reason: str) -> None:
        """Ends every open request with an error event. Nothing happens if the engine had already ended."""
        if self.ended.is_set():
            return
        self._enter(Failed(reason))
        self._end_all(reason)

    def _close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()

    def _send(self, message: ToEngine) -> None:
        # Without a high-water mark this never waits while the engine is connected, and when it is gone
        # the message no longer matters.
        self._socket.send(encode(message))

    def _enter(self, state: EngineState) -> None:
        self.state = state
        self._changed.set()
        if isinstance(state, Draining | Stopped | Failed):
            self.refuses.set()
        if isinstance(state, Stopped | Failed):
            self.ended.set()

    def _end_all(self, reason: str) -> None:
        ended, self._open = self._open, {}
        for request_id, take in ended.items():
            if take is not None:
                take(TokenEvent(request_id, None, finish=Finish.ERROR, error=reason))

    async def _receive(self) -> None:
        while True:
            self._read(await self._socket.recv())
            until = time.perf_counter() + TAKE_IN_S
            while time.perf_counter() < until and (more := self._waiting_message()) is not None:
                self._read(more)
            await asyncio.sleep(0)  # a message that has come is received without a look at anything else

    def _waiting_message(self) -> bytes | None:
        try:
            return self._direct.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _read(self, message: bytes) -> None:
        try:
            self._take(decode_to_front(message))
        except msgspec.MsgspecError as e:
            self.engine_died(f"The engine sent a message that this llmserve cannot read ({e}).")

    def _take(self, message: Loading | Ready | Events | Draining | Stopped | Failed | Stats) -> None:
        if self.ended.is_set():
            return
        match message:
            case Events(events, stats):
                for event in events:
                    self._deliver(event)
                self.stats = stats or self.stats
            case Stats():
                self.stats = message
            case Failed(error):
                self.engine_died(error)
            case Stopped():
                self._enter(message)
                self._end_all("The engine stopped before this request was complete.")
            case Loading() | Ready() if isinstance(self.state, Draining):
                pass  # told to stop while it loads
            case Ready():
                self.ready = message
                self._enter(message)
            case Loading() | Draining():
                self._enter(message)

    def _deliver(self, event: TokenEvent) -> None:
        if event.finish is None:
            take = self._open.get(event.request_id)
        else:
            take = self._open.pop(event.request_id, None)
            self.ended_at.append(time.monotonic())
        if take is not None:
            take(event)

    async def _watch_connection(self) -> None:
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_ACCEPTED:
                forget(self.endpoint)
                self.connected.set()
            elif event == zmq.EVENT_DISCONNECTED:
                await self.settle()
                self.engine_died("The engine stopped unexpectedly; its log says why.")
