"""Any number of ranks in one process, a thread each: for what tensor parallelism computes, not for how MPI does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from llmserve.comm import Comm, threads
from llmserve.comm.threads import Meeting, ThreadComm

T = TypeVar("T")


def run_ranks(size: int, work: Callable[[Comm], T], *, hosts: int = 1) -> list[T]:
    """`work` on every rank at once → what each returned. Ranks of several `hosts` cannot share memory."""

    class OnHosts(ThreadComm):
        def all_gather_text(self, text: str) -> list[str]:
            if hosts > 1:  # what names a process here names none there
                text = text.replace("pid:[", f"pid:[{self.rank % hosts}")
            return super().all_gather_text(text)

    def join(rank: int, meeting: Meeting) -> Comm:
        return OnHosts(rank, meeting)

    return threads.run_ranks(size, work, join)
