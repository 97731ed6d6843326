"""One rank per GPU: collectives over NCCL through torch.distributed, bootstrapped over MPI; plans as on CPU."""

from __future__ import annotations

import socket
from array import array

import torch
import torch.distributed as dist
from torch import Tensor

from llmserve.comm.mpi import MpiComm


class NcclComm:
    """`device` is this rank's GPU. MPI carries the address of rank 0's store, and nothing in a step."""

    def __init__(self, mpi: MpiComm, device: torch.device) -> None:
        self._mpi = mpi
        self.rank = mpi.rank
        self.size = mpi.size
        host = "127.0.0.1" if mpi.local_size == mpi.size else socket.getfqdn()
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if mpi.rank == 0 else None
        address = mpi.all_gather_text(f"{host} {store.port}" if store else "")[0].split()
        if store is None:
            store = dist.TCPStore(address[0], int(address[1]), is_master=False)
        dist.init_process_group("nccl", store=store, rank=self.rank, world_size=self.size, device_id=device)

    def broadcast(self, words: array[int] | None = None) -> array[int]:
        return self._mpi.broadcast(words)

    def all_reduce(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        parts = x.new_empty((self.size, *x.shape))
        dist.all_gather_into_tensor(parts, x.contiguous())
        return parts.transpose(0, 1).flatten(1)

    def all_gather_text(self, text: str) -> list[str]:
        return self._mpi.all_gather_text(text)

    def abort(self, code: int) -> None:
        self._mpi.abort(code)

    def close(self) -> None:
        dist.destroy_process_group()
        self._mpi.close()
