"""`mpirun -n 3 python -m tests.comm.mpi_rank`: one rank that knows what every collective must give it."""

from __future__ import annotations

from array import array

import torch

from llmserve.comm.mpi import MpiComm

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def mine(rank: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(12.0).reshape(3, 4).add(rank * 100).to(dtype)


def check_sums(comm: MpiComm, dtype: torch.dtype) -> None:
    total = sum(mine(rank, dtype).float() for rank in range(comm.size)).to(dtype)
    assert torch.equal(comm.all_reduce(mine(comm.rank, dtype)), total)
    assert torch.equal(comm.all_reduce(mine(comm.rank, dtype)[:, ::2]), total[:, ::2])
    assert comm.all_reduce(torch.empty(0, 4, dtype=dtype)).shape == (0, 4)


def check_sum_is_rounded_once(comm: MpiComm) -> None:
    """256 + 1 + 1 is 258 in bfloat16; rounded after each addition it would be 256."""
    x = torch.tensor([256.0 if comm.rank == 0 else 1.0], dtype=torch.bfloat16)
    assert comm.all_reduce(x).item() == 258


def check_gathers(comm: MpiComm, dtype: torch.dtype) -> None:
    side_by_side = torch.cat([mine(rank, dtype) for rank in range(comm.size)], dim=1)
    assert torch.equal(comm.all_gather(mine(comm.rank, dtype)), side_by_side)
    assert comm.all_gather(torch.empty(0, 4, dtype=dtype)).shape == (0, 4 * comm.size)


def check_broadcasts(comm: MpiComm) -> None:
    for message in (array("i", [1, -2, 2**31 - 1]), array("i", range(100_000)), array("i")):
        assert comm.broadcast(message if comm.rank == 0 else None) == message


def main() -> None:
    comm = MpiComm()
    assert comm.size == comm.local_size == 3
    for dtype in DTYPES:
        check_sums(comm, dtype)
        check_gathers(comm, dtype)
    check_sum_is_rounded_once(comm)
    check_broadcasts(comm)
    assert comm.all_gather_text(str(comm.rank)) == ["0", "1", "2"]
    print(f"rank{comm.rank}\n", end="", flush=True)
    comm.close()


if __name__ == "__main__":
    main()
