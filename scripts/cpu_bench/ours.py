"""llmserve as a worker (see cpu_bench.lines): one engine, in this process or as the ranks of an mpirun.

    python -m cpu_bench.ours ENGINE VOCAB_SIZE ENGINE_CONFIG_AS_JSON

Rank 0 hears the calls (mpirun passes its stdin on to it), the others follow.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cpu_bench.batch import BatchClock, make_prompts
from cpu_bench.lines import Commands, serve
from cpu_bench.machine import peak_memory
from llmserve.config import EngineConfig
from llmserve.engine.launch import launched_by_mpi
from llmserve.engine.native import NativeEngine
from llmserve.request import Request, SamplingParams


class Ours:
    def __init__(self, engine: NativeEngine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._ids = itertools.count()

    def generate(self, batch: int, prompt: int, new: int) -> dict[str, float]:
        """`batch` random prompts of `prompt` tokens at once, `new` tokens each, greedily; nothing ends them earlier."""
        requests = []
        for ids in make_prompts(batch, prompt, self._vocab_size, seed=next(self._ids)):
            requests.append(Request(next(self._ids), tuple(ids), SamplingParams(new, temperature=0)))
        clock = BatchClock(batch)
        for request in requests:
            self._engine.submit(request)
        while self._engine.has_work:
            for event in self._engine.step():
                if event.error is not None:
                    raise RuntimeError(event.error)
                clock.note(event.request_id, int(event.token is not None), event.finish is not None)
            clock.step()
        return clock.rates()


def as_rank(path: Path, config: EngineConfig) -> NativeEngine | None:
    """Rank 0's engine; another rank does its work in here and returns None."""
    from llmserve.engine.native_rank import join_native

    rank = join_native(path, config)
    if rank is None:
        raise SystemExit(1)
    if rank.index == 0:
        return NativeEngine(rank.load(lambda done: None), rank.comm, config)
    rank.follow()
    return None


def alone(path: Path, config: EngineConfig) -> NativeEngine:
    from llmserve.engine.offline import OfflineEngine

    return OfflineEngine(path, config).engine


def follows() -> bool:
    """Whether this is a rank of an mpirun other than its first. MPI is not asked, as MpiComm wants to start it."""
    return any(os.environ.get(name, "0") != "0" for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK"))


def main() -> None:
    path, vocab_size, config = Path(sys.argv[1]), int(sys.argv[2]), EngineConfig(**json.loads(sys.argv[3]))
    if follows():
        as_rank(path, config)
        return
    engine: NativeEngine | None = None

    def load() -> tuple[dict[str, Any], Commands]:
        nonlocal engine
        started = time.perf_counter()
        engine = as_rank(path, config) if launched_by_mpi() else alone(path, config)
        assert engine is not None
        seconds = time.perf_counter() - started
        ours = Ours(engine, vocab_size)
        return {"load": seconds}, {"generate": ours.generate, "peak_memory": peak_memory}

    serve(load)
    if engine is not None:
        engine.close()


if __name__ == "__main__":
    main()
