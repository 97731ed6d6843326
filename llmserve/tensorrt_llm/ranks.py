"""This process among the ranks of an `mpirun`, before and beside TensorRT-LLM's own communication.

Small texts are exchanged with a limit of time, so that a rank which does not answer becomes a sentence and not a job
that hangs. Afterwards a TCP line lies between rank 0 and every other: it tells either end at once when the other has
died, which TensorRT-LLM does not notice. Knows nothing of what the texts say.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmserve.comm.plan_line import Listener, Speaker
from llmserve.engine.launch import launched_by_mpi
from llmserve.errors import EngineDeadError

log = logging.getLogger("llmserve.engine")

JOIN_LIMIT = 120.0
"""Seconds in which all ranks have to be there, and to have imported what they need."""

_TAG = 7283


class Ranks:
    """All ranks, or this process alone where no mpirun started it."""

    def __init__(self) -> None:
        self.index = 0
        self.size = 1
        self.local_index = 0
        self._world: Any = None
        if launched_by_mpi():
            # A rank that waits in a collective gives its core away. Read by Open MPI when it initialises.
            os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
            with limited("MPI did not start on all ranks", JOIN_LIMIT):
                from mpi4py import MPI  # this initialises it

                self._world = MPI.COMM_WORLD
                local = self._world.Split_type(MPI.COMM_TYPE_SHARED)
            self.index, self.size = self._world.Get_rank(), self._world.Get_size()
            self.local_index = local.Get_rank()

    def gather(self, text: str, limit: float = JOIN_LIMIT) -> list[str]:
        """Every rank's text, in order, on every rank. EngineDeadError names who did not say his within `limit` seconds.

        Not a collective: those cannot be given up.
        """
        if self.size == 1:
            return [text]
        deadline = time.monotonic() + limit
        if self.index:
            self._world.send(text, 0, _TAG)
            return self._receive([0], deadline + limit)[0]  # rank 0 waits for the others first
        said = self._receive(list(range(1, self.size)), deadline)
        texts = [text, *(said[rank] for rank in range(1, self.size))]
        for rank in range(1, self.size):
            self._world.send(texts, rank, _TAG)
        return texts

    def _receive(self, sources: list[int], deadline: float) -> dict[int, Any]:
        pending, got = list(sources), dict[int, Any]()
        while pending:
            for rank in [rank for rank in pending if self._world.iprobe(rank, _TAG)]:
                got[rank] = self._world.recv(source=rank, tag=_TAG)
                pending.remove(rank)
            if pending and time.monotonic() > deadline:
                missing = ", ".join(map(str, pending))
                raise EngineDeadError(f"rank {missing} did not answer in time; its own messages may say why.")
            time.sleep(0.005)
        return got

    def line(self) -> Speaker | Listener | None:
        """Rank 0's end of the lines to all others, another rank's end of its own; None where there is but one rank."""
        if self.size == 1:
            return None
        if self.index == 0:
            speaker = Speaker(socket.getfqdn() if self._spans_hosts() else "127.0.0.1", self.size - 1)
            for rank in range(1, self.size):
                self._world.send((speaker.address, speaker.token), rank, _TAG)
            speaker.accept()
            return speaker
        self._spans_hosts()
        return Listener(*self._receive([0], time.monotonic() + JOIN_LIMIT)[0])

    def _spans_hosts(self) -> bool:
        return len(set(self.gather(socket.gethostname()))) > 1

    def abort(self) -> None:
        """End every rank at once. Does not return."""
        if self._world is not None:
            self._world.Abort(1)
        os._exit(1)


def send_home(speaker: Speaker) -> None:
    speaker.say(array("i"))


def ask_for_stacks(speaker: Speaker) -> None:
    """Has every other rank write where its threads are."""
    speaker.say(array("i", [1]))


def wait_for_home(listener: Listener) -> None:
    """Until rank 0 says that it is over. EngineDeadError when rank 0 dies."""
    while listener.hear():
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)


@contextmanager
def limited(what: str, seconds: float) -> Iterator[None]:
    """Ends this process, with the stacks of all threads, where what is inside takes longer: for calls that cannot be
    given up. `what` has happened then. mpirun ends the other ranks."""

    def expired() -> None:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        log.error("%s within %g s; the stacks are above.", what, seconds)
        os._exit(1)

    timer = threading.Timer(seconds, expired)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
