"""Engine rank 0's end of the wire to the front, and its ear for signals: one thing to sleep on.

The front binds, the engine connects; one engine per socket. A connection that drops means the front has died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from types import FrameType

import zmq
from zmq.utils.monitor import recv_monitor_message

from llmserve.engine.endpoint import forget
from llmserve.engine.messages import ToEngine, ToFront, decode_to_engine, encode
from llmserve.errors import LlmserveError

LINGER_MS = 2000
"""How long an engine that ends waits for its last words to reach the front."""


class FrontGoneError(LlmserveError):
    """The process that asked for tokens no longer exists."""


class FrontLink:
    def __init__(self, endpoint: str, front: subprocess.Popen[bytes] | None = None) -> None:
        """`front`: its process, where we started it; the endpoint need not exist yet."""
        self._endpoint = endpoint
        self._front = front
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = LINGER_MS
        # Unbounded, so that a step never blocks on the front; what can pile up is bounded by the requests in flight.
        self._socket.sndhwm = 0
        self._socket.rcvhwm = 0
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(endpoint)
        self.signals = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._wake_read):
            self._poller.register(source, zmq.POLLIN)
        signal.signal(signal.SIGCHLD, self._child_changed)

    def wake(self) -> None:
        """Have `receive` return, from any thread."""
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._wake_write, b"!")

    def watch(self, *numbers: int) -> None:
        """Count these signals in `signals`, and wake `receive`, instead of dying of them."""
        for number in numbers:
            signal.signal(number, self._count)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        self.wake()

    def _child_changed(self, number: int, frame: FrameType | None) -> None:
        self.wake()

    def send(self, message: ToFront) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout: float | None) -> list[ToEngine]:
        """All that has come; sleeps up to `timeout` seconds (None: for ever) for a message or a signal.

        Raises FrontGoneError when the front has died.
        """
        ready = dict(self._poller.poll(None if timeout is None else int(timeout * 1000)))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        messages: list[ToEngine] = []
        while self._socket.poll(0):
            messages.append(decode_to_engine(self._socket.recv()))
        if self._monitor in ready:
            recv_monitor_message(self._monitor)
            raise FrontGoneError("the front is gone (its connection closed).")
        if self._front and self._front.poll() is not None:
            raise FrontGoneError(f"the front ended with exit code {self._front.returncode}.")
        return messages

    def close(self) -> None:
        """Deliver what was sent (within LINGER_MS), then let go."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()
        forget(self._endpoint)
