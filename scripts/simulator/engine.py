"""A real engine in this process whose steps are watched: what each had to do, and how long it took."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm.solo import SoloComm
from llmserve.config import EngineConfig
from llmserve.engine.native import NativeEngine
from llmserve.request import Finish, Request, TokenEvent
from llmserve.runtime.load import Loaded, device_of, load_runner, use_threads
from llmserve.runtime.model_runner import Runner
from llmserve.scheduler import StepPlan
from simulator.cost import CostModel, Machine, Work


class Watched:
    """A runner that remembers the last plan."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.vocab_size = runner.vocab_size
        self.plan: StepPlan | None = None

    def execute(self, plan: StepPlan) -> Tensor:
        self.plan = plan
        return self._runner.execute(plan)

    def start(self, plan: StepPlan) -> None:
        self.plan = plan
        self._runner.start(plan)

    def finish(self) -> Tensor:
        return self._runner.finish()

    def abort(self) -> None:
        self._runner.abort()


class WatchedEngine:
    """tp_size 1 only. A step's time is that of all of it: planning, kernels, sampling, booking."""

    def __init__(self, engine: Path, config: EngineConfig) -> None:
        directory = EngineDir.open(engine)
        directory.check_ranks(1)
        cores = use_threads(config.threads, os.sched_getaffinity(0), 0, 1)
        comm = SoloComm()
        loaded = load_runner(directory, config, comm, device_of(directory.manifest, 0), cores)
        self._watched = Watched(loaded.runner)
        self._engine = NativeEngine(Loaded(self._watched, loaded.sampler, loaded.kv), comm, config)
        self.name = f"{directory.manifest.model_name} {directory.manifest.quant}"
        self.vocab_size = loaded.runner.vocab_size
        self.config = config
        self.kv = loaded.kv

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    def submit(self, request: Request) -> None:
        self._engine.submit(request)

    def clear(self) -> None:
        """End whatever is in it."""
        self._engine.abort_all(Finish.ABORT)

    def step(self) -> tuple[list[TokenEvent], float]:
        """With the seconds it took."""
        began = time.perf_counter()
        events = self._engine.step()
        return events, time.perf_counter() - began

    def last_work(self) -> Work:
        assert self._watched.plan is not None
        return Work.of(self._watched.plan)

    def machine(self, cost: CostModel) -> Machine:
        """This engine, as it will be simulated."""
        return Machine(
            name=self.name,
            cost=cost,
            num_blocks=self.kv.num_blocks,
            block_size=self.kv.block_size,
            max_num_seqs=self.config.max_num_seqs,
            max_model_len=self.kv.max_model_len,
        )
