"""Matrix multiplication on every instruction set: right for every way of storing W, the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import PackedMatrix, per_row, to_panels
from tests.numerics.kernel_program import (
    ALL_WEIGHTS,
    GROUP,
    SEEDS,
    THREADS,
    Rows,
    Weights,
    convert,
    every_set,
    exact,
    expected_rows,
    generator,
    multiply,
    random_activations,
    random_matrix,
    same_bits,
)

CASES = [pytest.param(how, form, id=f"{how}-{form}") for how in ALL_WEIGHTS for form in how.forms]
every_case = pytest.mark.parametrize("how, form", CASES)


def width(how: Weights, n: int) -> int:
    """n columns, or about as many as make whole groups once they are padded."""
    if not how.group:
        return n
    return how.group * (1 + n // how.group) - n % 32


def within(got: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, relative: float) -> bool:
    """got = x · wᵀ + bias, to a part of the sum of the magnitudes; x and w fp64."""
    right, size = x @ w.T, x.abs() @ w.T.abs()
    if bias is not None:
        right, size = right + bias, size + bias.abs()
    return bool(((got - right).abs() <= relative * size).all())


def product(isa: str, threads: int, x: Tensor, form: str, w: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    return multiply(isa, threads, convert(isa, threads, x, form), w, bias)


@every_set
@every_case
@given(st.integers(1, 70), st.integers(1, 100), st.integers(1, 400), st.booleans(), SEEDS)
@settings(max_examples=10, deadline=None)
def test_product(isa: str, how: Weights, form: str, tokens: int, rows: int, cols: int, biased: bool, seed: int) -> None:
    w = random_matrix(how, rows, width(how, cols), seed)
    x = random_activations(tokens, w.cols, seed + 1)
    bias = torch.randn(rows, generator=generator(seed + 2)) if biased else None
    # The definition's own activations: that the kernel makes the same ones is for another test.
    values = expected_rows(form, x)
    got = multiply(isa, 2, values, w, bias)
    assert within(got, values.values()[:, : w.cols], exact(w), bias, 1e-6 if form == "s8" else 2e-6)


@every_set
@pytest.mark.parametrize("how", [Weights("u8"), Weights("u4", 32, True), Weights("bf16"), Weights("f32")], ids=str)
def test_every_number_of_rows_up_to_many_tiles(isa: str, how: Weights) -> None:
    """Every way in which rows can be cut into tiles and blocks; with one answer for each row."""
    w = random_matrix(how, 40, 64, 1)
    x = random_activations(110, 64, 2)
    for form in how.forms:
        rows = expected_rows(form, x)
        whole = multiply(isa, 1, rows, w)
        assert within(whole, rows.values(), exact(w), None, 2e-6)
        for tokens in range(1, len(x)):
            first = Rows(form, *(None if t is None else t[:tokens].clone() for t in (rows.data, rows.scale, rows.sums)))
            assert same_bits(multiply(isa, 1 + tokens % 3, first, w), whole[:tokens]), (form, tokens)


@every_set
@every_case
@given(st.integers(2, 130), st.integers(1, 100), st.integers(1, 400), THREADS, st.data(), SEEDS)
@settings(max_examples=8, deadline=None)
def test_a_row_is_the_same_in_any_company(
    isa: str, how: Weights, form: str, tokens: int, rows: int, cols: int, threads: int, data: st.DataObject, seed: int
) -> None:
    w = random_matrix(how, rows, width(how, cols), seed)
    x = random_activations(tokens, w.cols, seed + 1)
    bias = torch.randn(rows, generator=generator(seed + 2))
    together = product(isa, threads, x, form, w, bias)
    some = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=20)))
    assert same_bits(product(isa, data.draw(THREADS), x[some], form, w, bias), together[some])
    one = int(some[0])
    assert same_bits(product(isa, 1, x[one : one + 1], form, w, bias), together[one : one + 1])


@every_set
@pytest.mark.parametrize("how", [Weights("u8"), Weights("u4", 128), Weights("bf16"), Weights("f16")], ids=str)
def test_rows_that_no_cache_holds_at_once(isa: str, how: Weights) -> None:
    """So many and so long that they are multiplied in blocks, whose borders depend on how many there are."""
    w = random_matrix(how, 64, 4096, 1)
    x = random_activations(150 if isa != "portable" else 60, 4096, 2)
    for form in how.forms:
        rows = convert(isa, 3, x, form)
        whole = multiply(isa, 3, rows, w)
        assert within(whole, rows.values(), exact(w), None, 2e-5)
        for begin, end in ((17, len(x)), (49, 50), (0, 55)):
            assert same_bits(product(isa, 2, x[begin:end].clone(), form, w), whole[begin:end])


@every_set
@pytest.mark.parametrize("how", [h for h in ALL_WEIGHTS if "s8" in h.forms], ids=str)
@given(st.integers(1, 40), st.integers(1, 100), st.integers(1, 700), st.booleans(), SEEDS)
@settings(max_examples=10, deadline=None)
def test_sets_agree_on_integers(
    isa: str, how: Weights, tokens: int, rows: int, cols: int, biased: bool, seed: int
) -> None:
    """Bit for bit, with plain C++ for the definition: integers are exact, and what rounds does so in one order."""
    w = random_matrix(how, rows, width(how, cols), seed)
    x = expected_rows("s8", random_activations(tokens, w.cols, seed + 1))
    bias = torch.randn(rows, generator=generator(seed + 2)) if biased else None
    assert same_bits(multiply(isa, 2, x, w, bias), multiply("portable", 1, x, w, bias))


@every_set
@pytest.mark.parametrize("how", [h for h in ALL_WEIGHTS if "s8" in h.forms], ids=str)
@pytest.mark.parametrize("activation", [127, -127, -128])
def test_the_largest_integers(isa: str, how: Weights, activation: int) -> None:
    """Which is where narrow sums would overflow."""
    largest = {"u8": 255, "u4": 15}[how.kind]
    groups = (2, 20 * 32 // how.group) if how.group else (0, 0)
    for stored in (largest, 0):
        values = torch.full((64, 640), stored, dtype=torch.uint8)
        zero = torch.full((64, groups[1]), largest - stored, dtype=torch.uint8) if how.zero_point else None
        scale = torch.ones(2, 32) if how.kind == "u8" else torch.ones(2, groups[1], 32, dtype=torch.float16)
        w = PackedMatrix(
            how.kind,
            64,
            640,
            to_panels(how.kind, values),
            scale,
            per_row(zero) if zero is not None else None,
            how.group,
        )
        for tokens in (1, 2, 3, 4, 7):
            q = torch.full((tokens, 640), activation, dtype=torch.int8)
            sums = (-8 * q.unflatten(1, (-1, GROUP)).sum(-1)).to(torch.int32)
            x = Rows("s8", q, torch.ones(tokens, 20), sums)
            assert torch.equal(multiply(isa, 1, x, w).double(), x.values() @ exact(w).T)


@every_set
@every_case
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none(isa: str, how: Weights, form: str, bad: float) -> None:
    """In its own row, in every column; rows beside it are what they were."""
    w = random_matrix(how, 50, 256, 1)
    x = random_activations(13, 256, 2)
    clean = product(isa, 2, x, form, w)
    spoilt = x.clone()
    spoilt[4, 100], spoilt[8, 255] = bad, bad
    got = product(isa, 2, spoilt, form, w)
    assert not got[[4, 8]].isfinite().any()
    others = [i for i in range(13) if i not in (4, 8)]
    assert same_bits(got[others], clean[others])
    if form == "s8":  # the same infinities on every set
        assert torch.equal(got.nan_to_num(7), product("portable", 1, spoilt, form, w).nan_to_num(7))


@every_set
@pytest.mark.parametrize("how", ALL_WEIGHTS, ids=str)
def test_forms_that_no_kernel_multiplies_are_refused(isa: str, how: Weights) -> None:
    w = random_matrix(how, 32, 128, 1)
    for form in {"s8", "bf16", "f32"} - set(how.forms):
        with pytest.raises(ValueError, match="activations of kind"):
            multiply(isa, 1, expected_rows(form, torch.ones(1, 128)), w)
    with pytest.raises(ValueError, match="columns"):
        multiply(isa, 1, expected_rows("f32", torch.ones(1, 96)), w)
