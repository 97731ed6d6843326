"""A real engine in this process whose steps are watched: what each had to do, and how long it took."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from llmserve.config import EngineConfig, Manifest
from llmserve.engine.offline import OfflineEngine
from llmserve.request import Finish, Request, TokenEvent
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
        self._engine = OfflineEngine(engine, config).engine
        self._watched = self._engine._runner = Watched(self._engine._runner)
        manifest = Manifest.read(engine)
        self.name = f"{manifest.model_name} {manifest.quant}"
        self.vocab_size = self._watched.vocab_size
        self.config = config
        self.kv = self._engine.kv

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
