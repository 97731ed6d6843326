"""What a recorder hands to layers and takes back: places in memory that are not there yet, and weights that are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from llmserve.ops.packed import PackedMatrix

Form = Literal["f32", "bf16", "s8"]
"""Of activations; s8 has a scale for every 32 (csrc/matrix.hpp)."""


@dataclass(eq=False)
class Array:
    """[tokens or wanted rows, width] of activations, in every form that somebody reads."""

    width: int
    of_logits: bool = False
    forms: dict[Form, int] = field(default_factory=dict)  # form → where it lies, once lowered
    shared_at: int | None = None  # summed over ranks: where in each rank's area its part lies
    common_at: int | None = None  # of all ranks together: where in rank 0's area it lies
    copies: int = 1  # rows for each token
    first: int = -1  # operation that writes it
    last: int = -1  # operation that reads it last

    @property
    def is_shared(self) -> bool:
        return self.shared_at is not None or self.common_at is not None


@dataclass(eq=False)
class Weight:
    """A parameter and what keeps its memory alive. `address` is of fp32 for vectors."""

    keep: tuple[Tensor, ...]
    matrix: Any = None  # kernels.Matrix
    packed: PackedMatrix | None = None
    vector: Tensor | None = None

    @property
    def address(self) -> int:
        assert self.vector is not None
        return self.vector.data_ptr()


@dataclass(frozen=True, slots=True)
class Angles:
    cos: Array
    sin: Array
    growth: Array | None  # of queries


@dataclass(frozen=True, slots=True)
class Routed:
    """Who goes where; kept for one layer at a time, so `order` stands for it among the arrays."""

    routes: Any  # kernels.Routes
    order: Array


@dataclass(frozen=True, slots=True)
class Operation:
    reads: tuple[tuple[Array, Form], ...]
    writes: tuple[Array, ...]
    emit: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows of `width` fp32 lie that others than the program's own instructions read or write."""

    address: int
    width: int
