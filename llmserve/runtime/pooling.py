"""Hidden states to vectors, on rank 0: sums over a prompt's positions, however many chunks they come in.

What a vector is depends on its rows alone: they are added one after the other in the order of positions, in fp64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmserve.scheduler.plan import Pooled

_NOT_NUMBERS = Pooled(error="the model computed hidden states that are not numbers.")
_NO_DIRECTION = Pooled(error="the model computed hidden states that are all zeros, which have no direction.")


class Pooler:
    """The sums of prompts that are not done yet, by request id."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, request_id: int, rows: Tensor, *, complete: bool) -> Pooled:
        """rows [n, hidden_size]: of a prompt's next positions, `complete` with its last.

        Of length 1, which makes the mean of the sum, and of one row what it is.
        """
        total = self._sums.get(request_id)
        if total is None:
            total = torch.zeros(rows.shape[1], dtype=torch.float64)
        for row in rows.double().cpu():
            total += row
        if not bool(total.isfinite().all()):
            return _NOT_NUMBERS
        if not complete:
            self._sums[request_id] = total
            return Pooled()
        length = total.square().sum().sqrt()
        return Pooled((total / length).float().numpy().astype("<f4").tobytes()) if length else _NO_DIRECTION

    def forget(self, request_id: int) -> None:
        """It has ended. Nothing happens if it has no sum."""
        self._sums.pop(request_id, None)
