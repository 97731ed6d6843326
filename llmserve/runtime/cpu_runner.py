"""Executes step plans with the CPU kernels: one call into the program per step, and none between its operations."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmserve.comm import Comm
from llmserve.errors import EngineDeadError
from llmserve.ops.cpu.arrays import Place
from llmserve.ops.cpu.team import Team
from llmserve.scheduler.plan import StepPlan


class CpuRunner:
    def __init__(
        self,
        program: Any,
        logits: Tensor,
        hidden: Place,
        sums: list[Place],
        comm: Comm | None,
        team: Team | None,
        vocab_size: int,
        hidden_size: int,
        keep: list[Any],
    ) -> None:
        """`program`: kernels.Program, recorded. `logits`: [most rows, columns] fp32, where its results come to lie.

        `hidden`: likewise, of as many columns as are padded to; rows of logits have the first of its rows.

        `team`: of the ranks, where they share memory and add up there. `comm`: where they do not; it adds up wherever
        the program pauses (`sums`), and gathers the logits. `keep`: what owns the memory that the program reads.
        """
        self.vocab_size = vocab_size
        self._hidden_size = hidden_size
        self._program = program
        self._logits = logits
        self._wanted = floats(hidden.address, hidden.width)
        self._keep = keep
        self._comm = comm
        self._team = team
        self._sums = [floats(s.address, s.width) for s in sums]

    def execute(self, plan: StepPlan) -> Tensor:
        """Compute a plan's chunks → logits [plan.num_logits, vocab_size] fp32, by chunk, then by position.

        Good until the next call. EngineDeadError where another rank of the team is gone.
        """
        self._program.begin(plan.words)
        return self._computed(self._program.run)

    def start(self, plan: StepPlan) -> None:
        """Another thread takes this one's place among those who compute."""
        self._program.begin(plan.words)
        self._program.start()

    def finish(self) -> Tensor:
        return self._computed(self._program.finish)

    def hidden(self) -> Tensor:
        program = self._program
        return self._wanted(program.num_logits + program.num_hidden)[program.num_logits :, : self._hidden_size]

    def abort(self) -> None:
        if self._team is not None:
            self._team.abort()

    def _computed(self, run: Callable[[], bool]) -> Tensor:
        """`run` computes until a pause (True) or the end; the rest is computed here."""
        program = self._program
        sums = iter(self._sums)
        paused = self._guarded(run)
        while paused:
            assert self._comm is not None
            part = next(sums)(program.paused_rows)
            part.copy_(self._comm.all_reduce(part))
            paused = self._guarded(program.run)
        logits = self._logits[: program.num_logits]
        if self._comm is not None:
            logits = self._comm.all_gather(logits)
        return logits[:, : self.vocab_size]

    def _guarded(self, run: Callable[[], bool]) -> bool:
        try:
            return run()
        except RuntimeError as e:
            if self._team is None:
                raise
            raise EngineDeadError(str(e)) from None  # all that a program may find wrong while it runs


def floats(address: int, width: int) -> Callable[[int], Tensor]:
    """rows → [rows, width] fp32 at `address`, without a copy."""

    def view(rows: int) -> Tensor:
        if not rows:
            return torch.empty(0, width)  # frombuffer takes no empty memory
        memory = (ctypes.c_float * (rows * width)).from_address(address)
        return torch.frombuffer(memory, dtype=torch.float32).view(rows, width)

    return view
