"""Run by mpirun: rank 1 answers too late, and rank 0 says so; then both meet after all."""

from __future__ import annotations

from llmserve.errors import EngineDeadError
from llmserve.tensorrt_llm.ranks import Ranks

GIVEN_UP = 1  # a tag of our own


def main() -> None:
    ranks = Ranks()
    from mpi4py import MPI  # initialised by now

    if ranks.index == 1:
        MPI.COMM_WORLD.recv(source=0, tag=GIVEN_UP)
    else:
        try:
            ranks.gather("early", 0.3)
        except EngineDeadError as e:
            print(f"rank 0: {e}")
            MPI.COMM_WORLD.send(None, 1, GIVEN_UP)
        else:
            print("rank 0 waited for it")
            ranks.abort()
    print(ranks.index, ranks.gather("here"))
    line = ranks.line()
    assert line is not None
    line.close()


if __name__ == "__main__":
    main()
