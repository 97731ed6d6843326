"""Rank 0's voice to the other ranks: int32 words over TCP, one message after another.

MPI's own broadcast waits by spinning, so ranks with nothing to do would each burn a core. A socket read sleeps in the
kernel, wakes within tens of microseconds, and tells at once when the other end has died. Knows nothing of plans.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
from array import array

from llmserve.errors import EngineDeadError

_HEADER = struct.Struct("<i")
TOKEN_BYTES = 16
CONNECT_TIMEOUT = 60.0
GREETING_TIMEOUT = 5.0


class Speaker:
    """Rank 0's end."""

    def __init__(self, host: str, listeners: int) -> None:
        self._server = socket.create_server((host, 0), backlog=listeners)
        self._server.settimeout(CONNECT_TIMEOUT)
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self._expected = listeners
        self._listeners: list[socket.socket] = []

    def accept(self) -> None:
        """Wait for every listener; whoever does not know the token is turned away."""
        while len(self._listeners) < self._expected:
            line, _ = self._server.accept()
            if self._knows_token(line):
                line.settimeout(None)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._listeners.append(line)
            else:
                line.close()
        self._server.close()

    def _knows_token(self, line: socket.socket) -> bool:
        line.settimeout(GREETING_TIMEOUT)
        try:
            return secrets.compare_digest(_receive(line, TOKEN_BYTES), self.token)
        except EngineDeadError:  # it said too little, or nothing
            return False

    def say(self, words: array[int]) -> None:
        data = words.tobytes()
        message = _HEADER.pack(len(data)) + data
        try:
            for line in self._listeners:
                line.sendall(message)
        except OSError as e:
            raise EngineDeadError(f"a rank of the engine is gone ({e.strerror}).") from None

    def lost_one(self, seconds: float) -> bool:
        """Whether a listener goes within so many seconds; none of them ever says anything."""
        return bool(select.select(self._listeners, [], [], seconds)[0])

    def close(self) -> None:
        for line in self._listeners:
            line.close()


class Listener:
    """Any other rank's end."""

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self._line = socket.create_connection(address, timeout=CONNECT_TIMEOUT)
        self._line.settimeout(None)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line.sendall(token)

    def hear(self) -> array[int]:
        """The next message; sleeps until it comes."""
        (size,) = _HEADER.unpack(_receive(self._line, _HEADER.size))
        words = array("i")
        words.frombytes(_receive(self._line, size))
        return words

    def close(self) -> None:
        self._line.close()


def _receive(line: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        try:
            n = line.recv_into(view[got:])
        except OSError as e:
            raise EngineDeadError(f"rank 0 of the engine is gone ({e.strerror}).") from None
        if n == 0:
            raise EngineDeadError("rank 0 of the engine is gone (its connection closed).")
        got += n
    return bytes(data)
