"""What quantisation keeps of a matrix, and that multiplying by what is stored is multiplying by what it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.errors import BuildError
from llmserve.ops.packed import PackedMatrix, unpack
from llmserve.ops.reference import ReferenceOps
from llmserve.quant import GROUP_SIZES, Scheme, make_scheme
from llmserve.quant.given_int4 import GivenInt4, join, joined_width
from llmserve.quant.int4 import Int4
from llmserve.quant.int8 import Int8
from llmserve.quant.plain import Plain

OPS = ReferenceOps(torch.device("cpu"))
SCHEMES: list[Scheme] = [Plain(torch.float32), Plain(torch.bfloat16), Int8(), *map(Int4, GROUP_SIZES)]
COLS = 256  # of the matrices here: groups of every size fit

schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name if s.name != "none" else str(s.dtype))
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


def randn(rows: int, cols: int, seed: int) -> Tensor:
    """Rows of very different sizes, with an outlier here and there, as in real checkpoints."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
    return weight * (1 + 9 * (torch.rand(rows, cols, generator=generator) < 0.01))


def packed(scheme: Scheme, weight: Tensor) -> PackedMatrix:
    return scheme.matrix(scheme.pack(weight), *weight.shape)


def stored_as(scheme: Scheme, weight: Tensor) -> Tensor:
    """What the weights stand for once they are stored."""
    return unpack(packed(scheme, weight))


@schemes
def test_a_band_is_packed_as_it_is_within_the_whole(scheme: Scheme) -> None:
    """Bands are of whole panels of 32 rows; the last may be of fewer."""
    weight = randn(77, COLS, seed=0)
    whole = scheme.pack(weight)
    bands = [scheme.pack(weight[a:b]) for a, b in ((0, 32), (32, 64), (64, 77))]
    for name, panels in whole.items():
        assert torch.equal(torch.cat([band[name] for band in bands]), panels)


@schemes
def test_what_is_packed_has_the_announced_shape_and_dtype(scheme: Scheme) -> None:
    stored = scheme.pack(randn(5, COLS, seed=0))
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == scheme.layout(5, COLS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_packed_as_the_numbers_they_are(dtype: torch.dtype) -> None:
    weight = randn(5, COLS, seed=0).to(dtype)
    for scheme in SCHEMES:
        assert torch.equal(stored_as(scheme, weight), stored_as(scheme, weight.float()))


@given(st.integers(1, 9), st.integers(1, 70), seeds)
@few
def test_int8_is_off_by_half_a_step_at_most(rows: int, cols: int, seed: int) -> None:
    weight = randn(rows, cols, seed)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((stored_as(Int8(), weight) - weight).abs() <= step * 0.50001).all()


@given(st.integers(1, 9), st.sampled_from(GROUP_SIZES), seeds)
@few
def test_int4_is_at_least_as_good_as_plain_rounding_in_every_group(rows: int, group: int, seed: int) -> None:
    weight = randn(rows, COLS, seed)
    groups = weight.unflatten(1, (-1, group))
    step = (groups.abs().amax(2, keepdim=True) / 7).half().float()
    plain = (groups / step).round().clamp(-8, 7) * step
    ours = stored_as(Int4(group), weight).unflatten(1, (-1, group))
    assert ((ours - groups).square().sum(2) <= (plain - groups).square().sum(2)).all()


@pytest.mark.parametrize("group", GROUP_SIZES)
def test_int4_gains_something_over_plain_rounding(group: int) -> None:
    weight = torch.randn(64, COLS, generator=torch.Generator().manual_seed(0))
    groups = weight.unflatten(1, (-1, group))
    step = groups.abs().amax(2, keepdim=True) / 7
    plain = (groups / step).round() * step
    ours = stored_as(Int4(group), weight).unflatten(1, (-1, group))
    assert (ours - groups).square().mean() < 0.97 * (plain - groups).square().mean()


@schemes
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    weight = randn(4, COLS, seed=0)
    weight[1] = 0
    weight[2, :128] = 0
    kept = stored_as(scheme, weight)
    assert (kept[1] == 0).all()
    assert (kept[2, :128] == 0).all()
    assert (kept[2, 128:] != 0).any()


@pytest.mark.parametrize("size", [1e-44, 2.5e-43, 1e-38, 1e-30, 1e-8, 1e30, 3e38])
def test_int8_holds_weights_of_any_size(size: float) -> None:
    """Down to numbers with so few bits left that the scale itself is rounded by half."""
    weight = torch.linspace(-1, 1, COLS).double().mul(size).float()[None]
    step = max(size / 127, 2.0**-149)
    assert ((stored_as(Int8(), weight) - weight).abs() <= 64 * 2.0**-149 + 0.51 * step).all()


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e-8, 2e-7])
def test_int4_takes_weights_too_small_for_its_scales_as_zero(size: float) -> None:
    weight = torch.linspace(-1, 1, COLS)[None] * size
    assert (stored_as(Int4(128), weight) == 0).all()


@pytest.mark.parametrize("size", [2.2e-7, 1e-6, 1e-4, 1.0, 65504.0])
def test_int4_keeps_the_largest_weights_of_any_larger_size(size: float) -> None:
    weight = torch.full((1, COLS), size)
    assert ((stored_as(Int4(128), weight) - weight).abs() <= 0.001 * size + 4 * 2.0**-24).all()


@pytest.mark.parametrize("size", [65600.0, 1e30])
def test_int4_refuses_weights_too_large_for_its_scales(size: float) -> None:
    weight = torch.ones(2, COLS)
    weight[1, 3] = -size
    with pytest.raises(BuildError, match=r"as large as .* int4; use --quant int8\.$"):
        Int4(64).pack(weight)


@pytest.mark.parametrize("dtype, size", [(torch.float16, 65600.0), (torch.bfloat16, 3.4e38)])
def test_a_dtype_too_small_for_a_weight_is_refused(dtype: torch.dtype, size: float) -> None:
    with pytest.raises(BuildError, match=rf"cannot be stored in {str(dtype)[6:]}; use --dtype float32\.$"):
        Plain(dtype).pack(torch.tensor([[1.0, -size]]))


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.sampled_from(SCHEMES), seeds)
@few
def test_matmul_is_multiplication_by_what_unpack_shows(
    tokens: int, rows: int, biased: bool, scheme: Scheme, seed: int
) -> None:
    dtype = scheme.dtype if isinstance(scheme, Plain) else torch.bfloat16 if seed % 2 else torch.float32
    matrix = packed(scheme, randn(rows, COLS, seed) * 0.1)
    x, bias = randn(tokens, COLS, seed + 1).to(dtype), randn(1, rows, seed + 2)[0].to(dtype) if biased else None
    terms = x.double()[:, None] * unpack(matrix).double()
    exact = terms.sum(2) + (0 if bias is None else bias.double())
    allowed = 4 * torch.finfo(dtype).eps * (terms.abs().sum(2) + exact.abs())
    assert ((OPS.linear(x, OPS.matrix(matrix), bias).double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("scheme", [Int8(), Int4(128)], ids=lambda s: s.name)
def test_in_float16_nothing_overflows_on_the_way_to_a_result_that_fits(scheme: Scheme) -> None:
    x, weight = torch.full((1, COLS), 10.0, dtype=torch.float16), torch.full((2, COLS), 1.0)
    y = OPS.linear(x, OPS.matrix(packed(scheme, weight)), None)
    torch.testing.assert_close(y.float(), torch.full((1, 2), 10.0 * COLS), rtol=0.15, atol=0)


def test_a_group_size_that_no_kernel_knows_is_refused() -> None:
    with pytest.raises(BuildError, match=r"group size 48 is not one of 128, 64, 32\.$"):
        make_scheme("int4", 48, torch.float32)


def test_columns_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(BuildError, match=r"96 columns cannot be cut into int4 groups of 64\.$"):
        Int4(64).layout(8, 96)


@given(st.integers(1, 70), st.sampled_from(GROUP_SIZES), st.booleans(), seeds)
@few
def test_int4_of_a_checkpoint_is_kept_to_the_last_bit(rows: int, group: int, zero_points: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (rows, COLS), generator=generator, dtype=torch.uint8)
    zero = torch.randint(0, 17, (rows, COLS // group), generator=generator, dtype=torch.uint8)
    zero = zero if zero_points else torch.full_like(zero, 8)
    scale = torch.randn(rows, COLS // group, generator=generator).half()
    joined = join(q, zero, scale)
    assert joined.shape == (rows, joined_width(COLS, group))
    scheme = GivenInt4(group, zero_points)
    stored = scheme.pack(joined)
    assert {name: (tuple(t.shape), t.dtype) for name, t in stored.items()} == scheme.layout(rows, COLS)
    at_run = make_scheme("int4", group, torch.float32, zero_points)
    assert at_run.layout(rows, COLS) == scheme.layout(rows, COLS)
    values = (q.unflatten(1, (-1, group)).float() - zero.float()[:, :, None]) * scale.float()[:, :, None]
    assert torch.equal(unpack(at_run.matrix(stored, rows, COLS)), values.flatten(1))


@pytest.mark.parametrize("group", GROUP_SIZES)
def test_what_we_round_ourselves_is_the_same_with_zero_points(group: int) -> None:
    weight = randn(40, COLS, seed=3)
    assert torch.equal(stored_as(Int4(group, zero_points=True), weight), stored_as(Int4(group), weight))


def test_a_checkpoints_groups_are_never_broken() -> None:
    with pytest.raises(BuildError, match=r"48 columns cannot be cut into int4 groups of 32\.$"):
        GivenInt4(32, zero_points=True).layout(8, 48)
