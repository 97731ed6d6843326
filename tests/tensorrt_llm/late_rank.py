"""Run by mpirun: rank 1 answers too late, and rank 0 says so; then both meet after all."""

from __future__ import annotations

import time

from llmserve.errors import EngineDeadError
from llmserve.tensorrt_llm.ranks import Ranks


def main() -> None:
    ranks = Ranks()
    if ranks.index == 1:
        time.sleep(1.5)
    else:
        try:
            ranks.gather("early", 0.3)
        except EngineDeadError as e:
            print(f"rank 0: {e}")
        else:
            print("rank 0 waited for it")
            ranks.abort()
    print(ranks.index, ranks.gather("here"))
    line = ranks.line()
    assert line is not None
    line.close()


if __name__ == "__main__":
    main()
