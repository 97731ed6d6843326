"""Collectives between three real ranks: each checks what it gets, and says so."""

from __future__ import annotations

from tests.mpi import mpirun


def test_three_ranks_agree() -> None:
    said = mpirun(3, "tests.comm.mpi_rank").split()
    assert sorted(said) == ["rank0", "rank1", "rank2"]
