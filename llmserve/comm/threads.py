"""Ranks that are threads of one process: for work of seconds, of which starting processes would be the most.

Plans are not sent: every rank is told them directly.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

import torch
from torch import Tensor

from llmserve.comm import Comm

T = TypeVar("T")


class Meeting:
    """Where `size` threads show each other what they brought."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = Barrier(size)
        self._brought: list[Any] = [None] * size

    def exchange(self, rank: int, x: T) -> list[T]:
        """What every rank brought, in rank order. BrokenBarrierError where one has failed."""
        self._brought[rank] = x
        self._barrier.wait()
        parts = list(self._brought)
        self._barrier.wait()
        return parts

    def fail(self) -> None:
        self._barrier.abort()


class ThreadComm:
    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank = rank
        self.size = meeting.size
        self._meeting = meeting

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, x.clone())).sum(0)

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._meeting.exchange(self.rank, x.clone()), dim=1)

    def all_gather_text(self, text: str) -> list[str]:
        return self._meeting.exchange(self.rank, text)

    def broadcast(self, words: array[int] | None = None) -> array[int]:
        raise NotImplementedError("ranks that are threads are told their plans directly")

    def abort(self, code: int) -> None:
        self._meeting.fail()

    def close(self) -> None: ...


def run_ranks(size: int, work: Callable[[Comm], T], join: Callable[[int, Meeting], Comm] = ThreadComm) -> list[T]:
    """`work` on every rank at once → what each returned. Raises what the first rank to fail did; it ends the others."""
    meeting = Meeting(size)
    failures: list[BaseException] = []

    def rank(index: int) -> T:
        try:
            return work(join(index, meeting))
        except BrokenBarrierError:
            raise
        except BaseException as e:
            failures.append(e)
            meeting.fail()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(rank, index) for index in range(size)]
    if failures:
        raise failures[0]
    return [future.result() for future in running]
