"""Executes step plans on one rank with operations that compute as they are called (ops/reference.py).

It owns the KV blocks and the block table. Every rank runs the same plans in the same order, so every rank's table is
the same.
"""

from __future__ import annotations

from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from llmserve.comm import Comm
from llmserve.models.decoder import Decoder
from llmserve.ops.batch import Batch, Span
from llmserve.ops.reference import ReferenceOps
from llmserve.runtime.kv_cache import KVPlan
from llmserve.scheduler.plan import StepPlan


class Runner(Protocol):
    """One rank's computation."""

    vocab_size: int

    def execute(self, plan: StepPlan) -> Tensor:
        """Compute a plan's chunks → logits [plan.num_logits, vocab_size] fp32 (rank 0's count), good until the next.

        By chunk, then by position. EngineDeadError where another rank is known to be gone.
        """

    def start(self, plan: StepPlan) -> None:
        """The first half of `execute`: returns while the device computes, where it can."""

    def finish(self) -> Tensor:
        """The second: waits for what was started."""

    def hidden(self) -> Tensor:
        """Of the plan computed last, those its chunks want [n, hidden_size] fp32, likewise; the same on every rank."""

    def abort(self) -> None:
        """This rank gives up: whoever waits for it within a step is told, instead of waiting for ever."""


class ModelRunner:
    def __init__(
        self, model: Decoder, ops: ReferenceOps, comm: Comm, cache: Tensor, kv: KVPlan, max_num_seqs: int
    ) -> None:
        """`cache`: [layers, 2, blocks, block_size, kv_heads, head_dim]; see kv_cache.allocate."""
        self.vocab_size = model.config.vocab_size
        self._model = model
        self._ops = ops
        self._comm = comm
        self._cache = cache
        self._block_size = kv.block_size
        columns = -(-kv.max_model_len // kv.block_size)
        self._block_table = torch.zeros((max_num_seqs, columns), dtype=torch.int32, device=cache.device)

        self._logits = torch.empty(0, self.vocab_size)
        self._hidden = torch.empty(0, model.config.hidden_size)

    def execute(self, plan: StepPlan) -> Tensor:
        self.start(plan)
        return self.finish()

    def start(self, plan: StepPlan) -> None:
        """On a GPU the step's kernels are in a queue when this returns. A CPU computes as torch is called, which nobody
        who only starts a step should wait for: `finish` does it there."""
        self._ops.begin(self._batch(plan))
        if self._cache.is_cuda:
            self._compute()

    def finish(self) -> Tensor:
        if not self._cache.is_cuda:
            self._compute()
        return self._logits

    @torch.inference_mode()
    def _compute(self) -> None:
        share, hidden = self._model.forward(list(self._cache), self._ops)
        self._hidden = hidden.float()
        self._logits = self._comm.all_gather(share.float())[:, : self.vocab_size]

    def hidden(self) -> Tensor:
        return self._hidden

    def abort(self) -> None:
        """Who waits, waits in MPI or NCCL, and ends with the job."""

    def _batch(self, plan: StepPlan) -> Batch:
        device = self._cache.device
        spans: list[Span] = []
        logit_rows: list[int] = []
        hidden_rows: list[int] = []
        first = 0
        for chunk in plan.chunks:
            if chunk.new_blocks:
                stop = chunk.first_block + len(chunk.new_blocks)
                self._block_table[chunk.row, chunk.first_block : stop] = torch.tensor(
                    chunk.new_blocks, dtype=torch.int32, device=device
                )
            length = len(chunk.tokens)
            spans.append(Span(first, length, chunk.start + length, chunk.row, chunk.variant))
            first += length
            logit_rows.extend(range(first - chunk.logits, first))
            hidden_rows.extend(range(first - chunk.hidden, first))
        tokens = torch.tensor(list(chain.from_iterable(c.tokens for c in plan.chunks)), device=device)
        positions = torch.tensor([p for s in spans for p in range(s.context - s.length, s.context)], device=device)
        rows = torch.tensor([s.row for s in spans for _ in range(s.length)], device=device)
        blocks = self._block_table[rows, positions // self._block_size].long()
        slots = blocks * self._block_size + positions % self._block_size
        wanted = (torch.tensor(wanted, device=device).long() for wanted in (logit_rows, hidden_rows))
        return Batch(tokens, positions, slots, tuple(spans), self._block_table, *wanted)
