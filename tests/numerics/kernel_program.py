"""Small programs for the tests of the CPU kernels: a few instructions over memory that the test owns.

All memory is allocated here, each array exactly as large as kernels may use, so that a sanitizer sees who goes beyond
(scripts/sanitize.sh).
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import (
    DTYPES,
    PANEL,
    Kind,
    PackedMatrix,
    from_panels,
    padded,
    per_row,
    plain_per_row,
    to_panels,
)
from llmserve.scheduler.plan import Chunk, StepPlan

try:
    from llmserve.ops.cpu import load_kernels

    kernels = load_kernels()
except ImportError as e:
    pytest.skip(f"the CPU extension is not built: {e}", allow_module_level=True)

SETS: list[str] = [found["name"] for found in kernels.instruction_sets()]
GROUP = 32
"""Activations that share a scale."""

SEEDS = st.integers(0, 2**32 - 1)
THREADS = st.sampled_from([1, 2, 3, 5])
FORMS = ["s8", "bf16", "f32"]
every_set = pytest.mark.parametrize("isa", SETS)
every_form = pytest.mark.parametrize("form", FORMS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """NaNs included, which are equal to nothing."""
    return a.shape == b.shape and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def at(tensor: Tensor | None) -> int:
    """Where it lies, for a kernel that wants its elements one after the other."""
    if tensor is None:
        return 0
    assert tensor.is_contiguous()
    return tensor.data_ptr()


# ------------------------------------------------------------------------------------------------ running programs


@functools.cache
def pool(threads: int) -> Any:
    return kernels.Pool([], threads)


atexit.register(pool.cache_clear)  # before the extension looks for what was left behind


def words(*chunks: Chunk) -> np.ndarray:
    return np.frombuffer(StepPlan.of(chunks).words, dtype=np.int32)


def run(
    isa: str,
    threads: int,
    tokens: int | Sequence[int],
    record: Callable[[Any], None],
    *,
    logits: int = 0,
    vocab_size: int = 1,
) -> None:
    """One step of a program that `record` records: so many tokens (of id 0), or these, of one sequence."""
    ids = [0] * tokens if isinstance(tokens, int) else list(tokens)
    run_spans(isa, threads, [SpanOf(tuple(ids), logits=logits)], record, vocab_size=vocab_size)


class SpanOf(NamedTuple):
    """What a sequence has in a step."""

    tokens: tuple[int, ...]
    start: int = 0
    logits: int = 0
    variant: int = 0


def run_spans(
    isa: str, threads: int, spans: Sequence[SpanOf], record: Callable[[Any], None], *, vocab_size: int = 1,
    variants: int = 1,
) -> None:  # fmt: skip
    """One step of a program that `record` records, each span of a sequence of its own."""
    program = kernels.Program(
        pool(threads), isa, max_tokens=sum(len(s.tokens) for s in spans), rows=len(spans), columns=1,
        num_blocks=len(spans), block_size=max(s.start + len(s.tokens) for s in spans), vocab_size=vocab_size,
        variants=variants,
    )  # fmt: skip
    record(program)
    program.begin(words(*(Chunk(i, s.start, 0, s.tokens, (i,), s.logits, s.variant) for i, s in enumerate(spans))))
    assert not program.run()


# ----------------------------------------------------------------------------------------------------- activations


@dataclass
class Rows:
    """Activations in the form that a matrix is multiplied by."""

    kind: str
    data: Tensor  # [T, padded width]
    scale: Tensor | None = None  # s8: [T, groups]
    sums: Tensor | None = None

    @property
    def handle(self) -> Any:
        return kernels.rows(self.kind, self.data.shape[1], at(self.data), at(self.scale), at(self.sums))

    def values(self) -> Tensor:
        """What they stand for, fp64."""
        if self.scale is None:
            return self.data.double()
        return (self.data.unflatten(1, (-1, GROUP)).double() * self.scale.double()[:, :, None]).flatten(1)

    def bits(self) -> Tensor:
        """All that there is of each row, as bytes [T, …]."""
        parts = [t.view(torch.uint8) for t in (self.data, self.scale, self.sums) if t is not None]
        return torch.cat(parts, dim=1)


def new_rows(kind: str, tokens: int, width: int) -> Rows:
    """To be written: full of what no kernel may leave there."""
    cols = padded(width)
    if kind != "s8":
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[kind]
        return Rows(kind, torch.full((tokens, cols), 77.0, dtype=dtype))
    groups = (tokens, cols // GROUP)
    return Rows(
        kind,
        torch.full((tokens, cols), 77, dtype=torch.int8),
        torch.full(groups, 77.0),
        torch.full(groups, 77, dtype=torch.int32),
    )


def inverse_scale(largest: Tensor) -> Tensor:
    """127 / largest, rounded once: with a number on the left, torch multiplies by a reciprocal instead."""
    return torch.full_like(largest, 127).div(largest)


def expected_rows(kind: str, x: Tensor) -> Rows:
    """x [T, width] fp32 in another form, by the definition in csrc/matrix.hpp."""
    wide = F.pad(x, (0, padded(x.shape[1]) - x.shape[1]))
    if kind != "s8":
        return Rows(kind, wide.to({"bf16": torch.bfloat16, "f32": torch.float32}[kind]))
    groups = wide.unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    inverse = torch.where(largest > 1e-36, inverse_scale(largest), 0)
    q = (groups * inverse[:, :, None]).round()
    return Rows(kind, q.flatten(1).to(torch.int8), largest / 127, (-8 * q.sum(-1)).to(torch.int32))


def near(got: Rows, x: Tensor, size: Tensor, roundings: float) -> bool:
    """x [T, width] fp64 in got's form, to so many roundings of fp32, each of `size` (and what the form loses)."""
    wide, size = (F.pad(t, (0, got.data.shape[1] - t.shape[1])) for t in (x, size))
    tolerance = roundings * 2**-24 * size
    if got.kind == "bf16":
        tolerance = tolerance + 2**-8 * wide.abs()
    if got.kind == "s8":
        assert got.scale is not None
        assert got.sums is not None
        assert torch.equal(got.sums, -8 * got.data.unflatten(1, (-1, GROUP)).sum(-1, dtype=torch.int32))
        largest, slack = (t.unflatten(1, (-1, GROUP)).amax(-1, keepdim=True) for t in (wide.abs(), tolerance))
        step = largest / 127
        if not ((got.scale.double() - step[..., 0]).abs() <= (slack / 127 + 2**-22 * step)[..., 0] + 1e-38).all():
            return False
        tolerance = tolerance + (0.501 * step + slack).expand(-1, -1, GROUP).flatten(1)
    return bool(((got.values() - wide).abs() <= tolerance + 1e-30).all())


def random_activations(tokens: int, width: int, seed: int) -> Tensor:
    """Of very different sizes within a row, as outlier channels make them; some groups all zero."""
    g = generator(seed)
    x = torch.randn(tokens, width, generator=g) * torch.exp(2 * torch.randn(1, width, generator=g))
    x[torch.rand(tokens, width, generator=g) < 0.1] = 0
    if tokens > 1:
        x[-1, : width // 2] = 0
    return x


# --------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Weights:
    """A way of storing a matrix."""

    kind: Kind
    group: int = 0
    zero_point: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{self.group or ''}{'z' if self.zero_point else ''}"

    @property
    def forms(self) -> list[str]:
        """Of activations that it can be multiplied by."""
        return {"u8": ["s8", "bf16", "f32"], "u4": ["s8", "bf16", "f32"], "bf16": ["bf16", "f32"]}.get(
            self.kind, ["f32"]
        )


ALL_WEIGHTS = [
    Weights("u8"),
    *(Weights("u4", group, zero) for group in (32, 64, 128) for zero in (False, True)),
    Weights("bf16"),
    Weights("f16"),
    Weights("f32"),
]


def random_matrix(how: Weights, rows: int, cols: int, seed: int) -> PackedMatrix:
    """cols, padded, a multiple of the group, if there are groups."""
    g = generator(seed)
    if how.kind == "u8":
        values = torch.randint(1, 256, (rows, cols), generator=g, dtype=torch.uint8)
        scale = torch.rand(padded(rows) // 32, 32, generator=g) / 100
        return PackedMatrix("u8", rows, cols, to_panels("u8", values), scale)
    if how.kind == "u4":
        values = torch.randint(0, 16, (rows, cols), generator=g, dtype=torch.uint8)
        groups = (rows, padded(cols) // how.group)
        zero = torch.randint(0, 16, groups, generator=g, dtype=torch.uint8) if how.zero_point else None
        return PackedMatrix(
            "u4", rows, cols, to_panels("u4", values), per_row(torch.rand(groups, generator=g).half() / 10),
            per_row(zero) if zero is not None else None, how.group,
        )  # fmt: skip
    values = torch.randn(rows, cols, generator=g).to(DTYPES[how.kind])
    return PackedMatrix(how.kind, rows, cols, to_panels(how.kind, values))


def handle(packed: PackedMatrix) -> Any:
    return kernels.matrix(
        packed.kind, padded(packed.rows), padded(packed.cols), at(packed.weight), packed.group_size, at(packed.scale),
        at(packed.zero),
    )  # fmt: skip


def exact(packed: PackedMatrix) -> Tensor:
    """W, fp64."""
    wide = from_panels(packed.kind, packed.weight, packed.rows, padded(packed.cols)).double()
    values = wide[:, : packed.cols]
    if packed.scale is None:
        return values
    if packed.kind == "u8":
        return (values - 128) * packed.scale.flatten()[: packed.rows, None].double()
    zero = 8 if packed.zero is None else plain_per_row(packed.zero, packed.rows).double()[:, :, None]
    scale = plain_per_row(packed.scale, packed.rows).double()[:, :, None]
    return ((wide.unflatten(1, (-1, packed.group_size)) - zero) * scale).flatten(1)[:, : packed.cols]


def panels_of(packed: PackedMatrix, first: int, count: int) -> PackedMatrix:
    """Panels first … first + count - 1, in memory of their own."""

    def part(values: Tensor) -> Tensor:
        return values[first : first + count].clone()

    scale, zero = (None if t is None else part(t) for t in (packed.scale, packed.zero))
    return PackedMatrix(packed.kind, PANEL * count, packed.cols, part(packed.weight), scale, zero, packed.group_size)


def padded_vector(values: Tensor) -> Tensor:
    """As a recorder passes biases and norms: zeros up to a multiple of 32."""
    return F.pad(values, (0, padded(len(values)) - len(values))).contiguous()


def convert(isa: str, threads: int, x: Tensor, kind: str) -> Rows:
    """x [T, width] in another form, by the kernel."""
    out = new_rows(kind, *x.shape)
    run(isa, threads, len(x), lambda p: p.convert(source=at(x), stride=x.shape[1], size=x.shape[1], out=out.handle))
    return out


def multiply(isa: str, threads: int, x: Rows, w: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """x · Wᵀ + bias, [T, rows of W] fp32, by the kernel."""
    tokens, cols = len(x.data), padded(w.rows)
    y = torch.full((tokens, cols), torch.nan)
    wide = None if bias is None else padded_vector(bias)
    run(isa, threads, tokens, lambda p: p.gemm(x=x.handle, w=handle(w), bias=at(wide), y=at(y), stride=cols))
    padding = y[x.values().isfinite().all(1), w.rows :]
    assert not padding.any()  # weights of zero, whatever numbers they are multiplied by
    return y[:, : w.rows]
