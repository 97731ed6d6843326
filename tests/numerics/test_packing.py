"""The C++ packing of a build gives the bytes that torch does, whatever the numbers."""

from __future__ import annotations

from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.quant import Scheme, make_scheme
from tests.kernels import BUILT

pytestmark = BUILT

SCHEMES = [make_scheme("int8", None, torch.float32)] + [
    make_scheme("int4", group, torch.float32, zero_points) for group in (32, 64, 128) for zero_points in (False, True)
]


def in_torch(scheme: Scheme, rows: torch.Tensor, cols: tuple[int, int] | None) -> dict[str, torch.Tensor]:
    with patch(f"{type(scheme).__module__}.can_pack", lambda rows: False):
        return scheme.pack(rows, cols)


@given(
    st.sampled_from(SCHEMES),
    st.integers(1, 70),
    st.integers(1, 300),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([1e-30, 1e-7, 1e-3, 1.0, 300.0]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
@settings(deadline=None, max_examples=150)
def test_both_give_the_same_bytes(
    scheme: Scheme, rows: int, cols: int, dtype: torch.dtype, size: float, seed: int, data: st.DataObject
) -> None:
    if scheme.group_size:
        cols = -(-cols // scheme.group_size) * scheme.group_size - data.draw(st.integers(0, 31))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator) * size * torch.exp(torch.randn(rows, 1, generator=generator))
    x[torch.rand(x.shape, generator=generator) < 0.1] = 0
    x[0, : cols // 2] = 0
    weight = x.clamp(-60000, 60000).to(dtype)
    part = None
    if scheme.by_row and data.draw(st.booleans()):
        part = data.draw(st.lists(st.integers(0, cols), min_size=2, max_size=2, unique=True).map(sorted).map(tuple))
    ours, theirs = scheme.pack(weight, part), in_torch(scheme, weight, part)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name


@given(st.integers(0, 2**15 - 1))
@settings(max_examples=300)
def test_scales_are_halves_as_torch_rounds_them(bits: int) -> None:
    """A group of one magnitude, so that its scale is that over 7: at halves, between them, and below the least."""
    half = torch.tensor([min(bits, 0x7BFF)], dtype=torch.int16).view(torch.float16).float()
    for value in (half, torch.nextafter(half, half + 1), half * 1.0004883):
        row = (value * 7).clamp(max=65504).expand(1, 32).contiguous()
        scheme = SCHEMES[1]
        assert torch.equal(scheme.pack(row)["scale"], in_torch(scheme, row, None)["scale"])
