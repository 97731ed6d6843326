"""Ranks over MPI (Open MPI through mpi4py): collectives on CPU tensors, in shared memory within a host.

Plans travel by `plan_line`, so that idle ranks sleep. MPI calls are made by one thread only.
"""

from __future__ import annotations

import os
import socket
from array import array

import numpy as np
import torch
from torch import Tensor

from llmserve.comm.plan_line import Listener, Speaker


class MpiComm:
    def __init__(self) -> None:
        # A rank that waits for another in a collective gives its core away if someone else can use it: the front,
        # or the very rank it waits for where ranks outnumber cores. Read by Open MPI when it initialises.
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
        # Imported here: importing mpi4py.MPI initialises MPI, which only a rank may do.
        from mpi4py import MPI

        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank: int = self._world.Get_rank()
        self.size: int = self._world.Get_size()
        local = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank: int = local.Get_rank()
        self.local_size: int = local.Get_size()
        self._speaker: Speaker | None = None
        self._listener: Listener | None = None
        if self.rank == 0:
            self._speaker = Speaker("127.0.0.1" if self.local_size == self.size else socket.getfqdn(), self.size - 1)
            self._world.bcast((self._speaker.address, self._speaker.token), root=0)
            self._speaker.accept()
        else:
            self._listener = Listener(*self._world.bcast(None, root=0))

    def broadcast(self, words: array[int] | None = None) -> array[int]:
        if self._listener is not None:
            return self._listener.hear()
        assert self._speaker is not None
        assert words is not None
        self._speaker.say(words)
        return words

    def all_gather_text(self, text: str) -> list[str]:
        return self._world.allgather(text)

    def all_reduce(self, x: Tensor) -> Tensor:
        # MPI knows no 16-bit floats: those are summed in fp32 and rounded once.
        wide = x.float().contiguous()
        self._world.Allreduce(self._mpi.IN_PLACE, wide.numpy())
        return wide.to(x.dtype)

    def all_gather(self, x: Tensor) -> Tensor:
        parts = np.empty((self.size, *x.shape), np.float32)
        self._world.Allgather(x.float().contiguous().numpy(), parts)
        return torch.from_numpy(parts).transpose(0, 1).flatten(1).to(x.dtype)

    def abort(self, code: int) -> None:
        self._world.Abort(code)

    def close(self) -> None:
        for end in (self._speaker, self._listener):
            if end is not None:
                end.close()
        self._mpi.Finalize()
