"""The layout of stored matrices: a permutation of the bytes, which can be undone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.ops.packed import (
    DTYPES,
    OFFSETS,
    Kind,
    PackedMatrix,
    from_panels,
    panel_shape,
    per_row,
    plain_per_row,
    to_panels,
    unpack,
)

SIZES = st.integers(1, 150)
SEEDS = st.integers(0, 2**32 - 1)
every_kind = pytest.mark.parametrize("kind", list(DTYPES))


def random_values(kind: Kind, rows: int, cols: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    if kind in OFFSETS:
        return torch.randint(0, 2 * OFFSETS[kind], (rows, cols), generator=g, dtype=torch.uint8)
    return torch.randn(rows, cols, generator=g).to(DTYPES[kind])


@every_kind
@given(SIZES, SIZES, SEEDS)
@settings(max_examples=40, deadline=None)
def test_panels_and_back(kind: Kind, rows: int, cols: int, seed: int) -> None:
    values = random_values(kind, rows, cols, seed)
    panels = to_panels(kind, values)
    assert panels.shape == panel_shape(kind, rows, cols)
    assert panels.dtype == DTYPES[kind]
    assert torch.equal(from_panels(kind, panels, rows, cols), values)
    # What was added is a weight of zero.
    whole = from_panels(kind, panels, panels.shape[0] * 32, -(-cols // 32) * 32)
    assert (whole[rows:] == OFFSETS.get(kind, 0)).all()
    assert (whole[:, cols:] == OFFSETS.get(kind, 0)).all()


@given(SIZES, st.integers(1, 9), SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_belongs_to_rows_and_back(rows: int, groups: int, seed: int) -> None:
    values = torch.randn(rows, groups, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(plain_per_row(per_row(values), rows), values)


@given(SIZES, SIZES, SEEDS)
@settings(max_examples=40, deadline=None)
def test_unpack_bytes(rows: int, cols: int, seed: int) -> None:
    values = random_values("u8", rows, cols, seed)
    scale = torch.rand(-(-rows // 32), 32, generator=torch.Generator().manual_seed(seed))
    packed = PackedMatrix("u8", rows, cols, to_panels("u8", values), scale)
    expected = [[(int(q) - 128) * float(scale[n // 32, n % 32]) for q in row] for n, row in enumerate(values)]
    torch.testing.assert_close(unpack(packed), torch.tensor(expected))


@given(st.integers(1, 70), st.integers(1, 4), st.sampled_from([32, 64, 128]), st.booleans(), SEEDS)
@settings(max_examples=40, deadline=None)
def test_unpack_nibbles(rows: int, groups: int, size: int, zero_point: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    values = random_values("u4", rows, groups * size, seed)
    scale = torch.rand(rows, groups, generator=g).half()
    zero = torch.randint(0, 16, (rows, groups), generator=g, dtype=torch.uint8) if zero_point else None
    packed = PackedMatrix(
        "u4",
        rows,
        groups * size,
        to_panels("u4", values),
        per_row(scale),
        None if zero is None else per_row(zero),
        size,
    )
    got = unpack(packed)
    for n, k in torch.stack(
        (torch.randint(rows, (20,), generator=g), torch.randint(groups * size, (20,), generator=g)), 1
    ):
        offset = 8 if zero is None else int(zero[n, k // size])
        assert float(got[n, k]) == (int(values[n, k]) - offset) * float(scale[n, k // size])
