"""An engine that speaks the protocol and makes up its tokens: what it answers depends on nothing but the request."""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import zmq

from llmserve.engine.messages import (
    Abort,
    Drain,
    Draining,
    Events,
    Ready,
    Stats,
    Stopped,
    Submit,
    decode_to_engine,
    encode,
)
from llmserve.request import Finish, Request, TokenEvent, TokenLogprobs

READY = Ready(max_model_len=200, max_num_seqs=8, kv_cache_tokens=1000, block_size=16, tp_size=1, device="cpu")
Script = Callable[[Request], Sequence[int]]


class FakeEngine:
    """Runs in a thread. `script` gives the tokens of a request, over and over if they are too few."""

    def __init__(self, endpoint: str, script: Script) -> None:
        self.script = script
        self.received: list[Any] = []  # every message, in order
        self.running: dict[int, tuple[Request, int]] = {}  # request, tokens so far less pieces of its prompt
        self.allowance: int | None = None  # tokens each request may still get; None: all of them
        self.steps_a_message = 1
        self.times_out = False  # every request, instead of yielding anything
        self._outbox: deque[Any] = deque()
        self._stall: tuple[threading.Event, threading.Event] | None = None  # it stands still; it may go on
        self._deadline: float | None = None
        self._quit = threading.Event()
        self._endpoint = endpoint
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, message: Any) -> None:
        self._outbox.append(message)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Meanwhile it neither hears nor says anything, as a process that is stopped."""
        stands, go_on = self._stall = threading.Event(), threading.Event()
        assert stands.wait(60)
        try:
            yield
        finally:
            go_on.set()

    def disconnect(self) -> None:
        """As a process that dies: no further word."""
        self._quit.set()
        self._thread.join()

    def seen(self, kind: type) -> Any:
        """The first message of this kind, waiting for it."""
        return wait_for(lambda: next((m for m in self.received if isinstance(m, kind)), None))

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.PAIR)
        socket.linger = 1000
        socket.connect(self._endpoint)
        while not self._quit.is_set():
            if self._stall is not None:
                (stands, go_on), self._stall = self._stall, None
                stands.set()
                go_on.wait()
            while self._outbox:
                socket.send(encode(self._outbox.popleft()))
            while socket.poll(0 if self._busy() else 2):
                self._take(decode_to_engine(socket.recv()), socket)
            if self._busy():
                self._step(socket)
            if self._drained():
                socket.send(encode(Events([TokenEvent(id, None, Finish.ABORT) for id in self.running])))
                socket.send(encode(Stopped()))
                self.running.clear()
                break
        socket.close()
        context.term()

    def _busy(self) -> bool:
        return bool(self.running) and self.allowance != 0

    def _take(self, message: Any, socket: zmq.Socket[bytes]) -> None:
        self.received.append(message)
        match message:
            case Submit(request):
                self.running[request.id] = (request, -len(pieces(request)))
            case Abort(request_id):
                if self.running.pop(request_id, None):
                    socket.send(encode(Events([TokenEvent(request_id, None, Finish.ABORT)])))
            case Drain(timeout):
                socket.send(encode(Draining()))
                self._deadline = time.monotonic() + timeout

    def _drained(self) -> bool:
        return self._deadline is not None and (not self.running or time.monotonic() >= self._deadline)

    def _step(self, socket: zmq.Socket[bytes]) -> None:
        events: list[TokenEvent] = []
        for _ in range(self.steps_a_message):
            if self._busy():
                events += self._events_of_a_step()
        stats = Stats(len(self.running), 0, 0.5, 1, 20, 5, 1, 1)
        socket.send(encode(Events(events, stats)))

    def _events_of_a_step(self) -> list[TokenEvent]:
        events = []
        for id, (request, done) in list(self.running.items()):
            if self.times_out:
                events.append(TokenEvent(id, None, Finish.TIMEOUT))
            elif request.pooling is not None:
                events.append(TokenEvent(id, None, Finish.STOP, vector=vector_of(request)))
            elif done < 0:
                events.append(TokenEvent(id, None, prompt_logprobs=pieces(request)[done]))
            else:
                events.append(self._token(request, done))
            if events[-1].finish:
                del self.running[id]
            else:
                self.running[id] = (request, done + 1)
        if self.allowance is not None:
            self.allowance -= 1
        return events

    def _token(self, request: Request, done: int) -> TokenEvent:
        tokens, sampling = self.script(request), request.sampling
        token = tokens[done % len(tokens)]
        if token in sampling.stop_token_ids and done < sampling.min_tokens:
            token = tokens[0]
        finish = None
        if token in sampling.stop_token_ids:
            finish = Finish.STOP
        elif done + 1 >= sampling.max_tokens:
            finish = Finish.LENGTH
        logprobs = None
        if sampling.logprobs is not None:
            logprobs = made_up(token, sampling.logprobs)
        return TokenEvent(request.id, token, finish, logprobs, cached_tokens=4 if done == 0 else 0)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
    return result


def made_up(token: int, count: int, rank: int = 1) -> TokenLogprobs:
    chosen, first = -1.0 - token % 5, token - rank + 1
    return TokenLogprobs(chosen, tuple((first + i, chosen + rank - 1 - i) for i in range(count)), rank)


def vector_of(request: Request) -> bytes:
    """Eight numbers that the prompt and the way of pooling show in."""
    own = hash((request.prompt, request.pooling.value == "mean" if request.pooling else None))
    return struct.pack("<8f", *((own >> 8 * i & 255) / 256 for i in range(8)))


@lru_cache(maxsize=256)  # asked for at every step
def pieces(request: Request) -> list[tuple[TokenLogprobs, ...]]:
    """What is told of a prompt, event by event, as by an engine that takes it in by chunks."""
    count = request.sampling.prompt_logprobs
    told = [] if count is None else [made_up(token, count, 1 + token % 3) for token in request.prompt[1:]]
    return [tuple(told[i : i + 3]) for i in range(0, len(told), 3)]
