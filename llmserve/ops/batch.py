"""One step's tokens, as kernels see them. Built by the runtime from a StepPlan; holds no requests and no text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """A run of consecutive tokens of one sequence: rows first … first+length-1 of the step."""

    first: int
    length: int
    context: int  # positions the span's last token attends to, itself included
    row: int  # of the block table
    variant: int = 0  # which set of rotation frequencies


@dataclass(frozen=True, slots=True)
class Batch:
    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64: where each token's key and value go, block · block_size + offset
    spans: tuple[Span, ...]
    block_table: Tensor  # [rows, blocks] int32; a row's entries past its context are stale
    logit_rows: Tensor  # [R] int64: rows of the step whose logits are wanted
    hidden_rows: Tensor  # [S] int64: those whose hidden states behind the final norm are
