"""`mpirun -n 2 python -m tests.models.golden_rank KERNELS ENGINES GOLDENS OUT`: one rank, of every engine in turn."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from llmserve.comm.mpi import MpiComm
from tests.models.golden import FAMILIES, Golden, greedy, logits


def main(kernels: str, engines: Path, goldens: Path, out: Path) -> None:
    comm = MpiComm()
    assert comm.size == 2
    leave, comm.close = comm.close, lambda: None  # an engine that ends takes MPI with it; here another follows
    for family in FAMILIES:
        golden = Golden.read(goldens / family)
        answers = greedy(engines / family, golden, comm, kernels)
        rows = logits(engines / family, golden, comm, kernels)
        if comm.rank == 0:
            (out / f"{family}.json").write_text(json.dumps(answers))
            save_file({str(i): row for i, row in enumerate(rows)}, out / f"{family}.safetensors")
    leave()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
