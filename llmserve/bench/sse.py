r"""Server-sent events out of a stream of bytes that is cut anywhere: in a line, in a character, between \r and \n.

Only `data` fields are kept (WHATWG HTML, "Server-sent events"); knows nothing of what they hold.
"""

from __future__ import annotations


class EventParser:
    def __init__(self) -> None:
        self._rest = b""  # the line that has begun
        self._data: list[bytes] = []  # of the event that has begun
        self._after_return = False  # the last chunk ended in \r: a \n that comes next belongs to it

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that this chunk completes."""
        if self._after_return and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        if chunk.endswith(b"\r"):
            self._after_return = True
        buffer = self._rest + chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = buffer.split(b"\n")
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> str | None:
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data:
            return None
        event = b"\n".join(self._data).decode("utf-8", "replace")
        self._data.clear()
        return event
