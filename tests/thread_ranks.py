"""Any number of ranks in one process, a thread each: for what tensor parallelism computes, not for how MPI does it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from llmserve.comm import Comm

T = TypeVar("T")


class ThreadComm:
    def __init__(self, rank: int, barrier: Barrier, table: list[Any], hosts: int) -> None:
        self.rank = rank
        self._hosts = hosts
        self.size = barrier.parties
        self._barrier = barrier
        self._table = table

    def _exchange(self, x: T) -> list[T]:
        """What every rank brought, in rank order."""
        self._table[self.rank] = x
        self._barrier.wait()
        parts = list(self._table)
        self._barrier.wait()
        return parts

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._exchange(x.clone())).sum(0)

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._exchange(x.clone()), dim=1)

    def all_gather_text(self, text: str) -> list[str]:
        if self._hosts > 1:  # what names a process here names none there
            text = text.replace("pid:[", f"pid:[{self.rank % self._hosts}")
        return self._exchange(text)

    def broadcast(self, words: array[int] | None = None) -> array[int]:
        raise NotImplementedError("each rank is told its plans directly")

    def abort(self, code: int) -> None:
        self._barrier.abort()

    def close(self) -> None: ...


def run_ranks(size: int, work: Callable[[Comm], T], *, hosts: int = 1) -> list[T]:
    """`work` on every rank at once → what each returned. A rank that fails ends the others.

    Ranks of several `hosts` cannot share memory.
    """
    barrier, table = Barrier(size), [None] * size

    def rank(index: int) -> T:
        comm = ThreadComm(index, barrier, table, hosts)
        try:
            return work(comm)
        except BaseException:
            comm.abort(1)
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))
