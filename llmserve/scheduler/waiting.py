"""Who waits, in the order in which they will be let in: the most urgent priority first, of that the first to come.

Adding, taking and removing cost the same however many wait. It knows nothing of blocks or steps.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator

from llmserve.scheduler.sequence import Sequence


class WaitingQueue:
    def __init__(self) -> None:
        self._priorities: list[int] = []  # those that anybody has, ascending
        self._lines: dict[int, OrderedDict[int, Sequence]] = {}  # by priority, then by request id
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for priority in self._priorities:
            yield from self._lines[priority].values()

    @property
    def head(self) -> Sequence:
        """Who is next; there must be somebody."""
        return next(iter(self._lines[self._priorities[0]].values()))

    def add(self, seq: Sequence) -> None:
        """Behind all of its priority."""
        self._line(seq)[seq.id] = seq
        self._count += 1

    def put_back(self, seq: Sequence) -> None:
        """Before all of its priority: for one that ran, who came before all of those."""
        self.add(seq)
        self._line(seq).move_to_end(seq.id, last=False)

    def remove(self, seq: Sequence) -> None:
        priority = seq.request.priority
        line = self._lines[priority]
        del line[seq.id]
        self._count -= 1
        if not line:
            del self._lines[priority]
            del self._priorities[bisect_left(self._priorities, priority)]

    def _line(self, seq: Sequence) -> OrderedDict[int, Sequence]:
        priority = seq.request.priority
        if priority not in self._lines:
            self._lines[priority] = OrderedDict()
            insort(self._priorities, priority)
        return self._lines[priority]
