"""Whose time is up. It knows request ids and moments, and nothing of what becomes of either."""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Deadlines:
    """A moment for some request ids. Asking costs nothing while nobody's has come."""

    def __init__(self) -> None:
        self._moment_of: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # also of some that have been forgotten

    def set(self, request_id: int, moment: float) -> None:
        self._moment_of[request_id] = moment
        heappush(self._heap, (moment, request_id))

    def forget(self, request_id: int) -> None:
        """Nothing happens if it has none."""
        if self._moment_of.pop(request_id, None) is not None and len(self._heap) > 2 * len(self._moment_of) + 64:
            # Requests end long before their time, and would otherwise lie here until it has come.
            self._heap = [(moment, id) for id, moment in self._moment_of.items()]
            heapify(self._heap)

    def passed(self, now: float) -> list[int]:
        """Those whose moment has come, the earliest first; they have none any more."""
        ids = []
        while self._heap and self._heap[0][0] <= now:
            moment, request_id = heappop(self._heap)
            if self._moment_of.get(request_id) == moment:
                del self._moment_of[request_id]
                ids.append(request_id)
        return ids
