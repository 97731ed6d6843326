"""Norms by the kernels: what is added up before them, with and without a bias, and of the rows that are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import padded
from tests.numerics.kernel_program import (
    FORMS,
    SEEDS,
    THREADS,
    Rows,
    at,
    every_form,
    every_set,
    generator,
    near,
    new_rows,
    padded_vector,
    random_activations,
    run,
    same_bits,
)


@dataclass(frozen=True)
class Norm:
    """A norm and what it is of."""

    deltas: tuple[Tensor, ...]  # [T, width] each
    residual: Tensor
    weight: Tensor
    eps: float = 1e-6
    bias: Tensor | None = None
    post: Tensor | None = None
    post_eps: float = 0.0
    fresh: bool = False

    def rows(self, some: Tensor) -> Norm:
        """The same for some rows."""
        return replace(self, deltas=tuple(d[some] for d in self.deltas), residual=self.residual[some])

    def added(self) -> tuple[Tensor, Tensor]:
        """(what the residual should become, by how much a rounding in it counts), fp64 [T, width]."""
        before = torch.zeros_like(self.residual) if self.fresh else self.residual
        change = sum((d.double() for d in self.deltas), torch.zeros(1))
        size = sum((d.double().abs() for d in self.deltas), torch.zeros(1))
        if self.post is not None:
            factor = torch.rsqrt(change.square().mean(-1, keepdim=True) + self.post_eps) * self.post.double()
            change, size = change * factor, size * factor.abs()
        return before + change, before.double().abs() + size

    def of(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of total, by how much a rounding in it counts), fp64."""
        wide, weight = total.double(), self.weight.double()
        if self.bias is None:
            right = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * weight
            return right, right.abs()
        mean = wide.mean(-1, keepdim=True)
        factor = torch.rsqrt((wide - mean).square().mean(-1, keepdim=True) + self.eps) * weight
        size = (wide.abs() + wide.abs().mean(-1, keepdim=True)) * factor.abs() + self.bias.double().abs()
        return (wide - mean) * factor + self.bias.double(), size


def compute(
    isa: str, threads: int, norm: Norm, forms: list[str], *, logits: int = 0, keep: bool = True
) -> tuple[list[Rows], Tensor]:
    """(the norm in each form, the residual after it). `logits`: only of the last so many rows, which go elsewhere.

    `keep`: where the new residual is written at all.
    """
    tokens, width = norm.residual.shape
    deltas, (residual,) = ([F.pad(t, (0, padded(width) - width)).contiguous() for t in ts]
                           for ts in (norm.deltas, (norm.residual,)))  # fmt: skip
    total = torch.zeros(logits, padded(width)) if logits else residual
    outs = [new_rows(form, logits or tokens, width) for form in forms]
    vectors = [None if v is None else padded_vector(v) for v in (norm.weight, norm.bias, norm.post)]

    def record(p: Any) -> None:
        p.norm(
            deltas=[at(d) for d in deltas], residual=at(residual), total=at(total) if keep else 0,
            weight=at(vectors[0]), size=width, eps=norm.eps, out=[out.handle for out in outs], gather=logits > 0,
            fresh=norm.fresh, bias=at(vectors[1]), post=at(vectors[2]), post_eps=norm.post_eps,
        )  # fmt: skip

    run(isa, threads, tokens, record, logits=logits)
    if logits or not keep:
        assert same_bits(residual[:, :width], norm.residual)
    assert not total[total.isfinite().all(1), width:].any()
    for out in outs:
        assert not out.data[:, width:][out.values().isfinite().all(1)].any()
    return outs, total[:, :width]


@st.composite
def norms(draw: st.DrawFn, most: int = 12) -> Norm:
    """Of any width, of 1 too; around zero, or far from it."""
    g = generator(draw(SEEDS))
    tokens, width, fresh = draw(st.integers(1, most)), draw(st.integers(1, 300)), draw(st.booleans())
    deltas = draw(st.integers(int(fresh), 3))
    x = torch.randn(deltas + 1, tokens, width, generator=g) + draw(st.sampled_from([0.0, 0.0, -3.0, 500.0]))
    weight, bias, post = torch.randn(3, width, generator=g)
    return Norm(
        tuple(x[:deltas]), x[deltas], weight.clone(), draw(st.sampled_from([1e-6, 1e-5, 0.1])),
        bias.clone() if draw(st.booleans()) else None, post.clone() if deltas and draw(st.booleans()) else None,
        draw(st.sampled_from([1e-6, 0.1])), fresh,
    )  # fmt: skip


@every_set
@given(norms(), st.lists(st.sampled_from(FORMS), min_size=1, max_size=2), st.data())
@settings(max_examples=60, deadline=None)
def test_norm(isa: str, norm: Norm, forms: list[str], data: st.DataObject) -> None:
    outs, after = compute(isa, 2, norm, forms)
    total, size = norm.added()
    if norm.post is None:  # by single additions, in the order of the terms
        exact = torch.zeros_like(norm.residual) if norm.fresh else norm.residual
        for delta in norm.deltas:
            exact = exact + delta
        assert same_bits(after, exact)
    else:
        assert ((after - total).abs() <= 32 * 2**-24 * size).all()
    for out in outs:
        assert near(out, *norm.of(after), 40)
    # Only of rows that are wanted, and with the sum left out: the same numbers, and the residual stays as it was.
    logits = data.draw(st.integers(1, len(after)))
    wanted, sums = compute(isa, data.draw(THREADS), norm, forms, logits=logits)
    assert same_bits(sums, after[-logits:])
    unkept, _ = compute(isa, data.draw(THREADS), norm, forms, keep=False)
    for out, alone, every in zip(wanted, unkept, outs, strict=True):
        assert same_bits(out.bits(), every.bits()[-logits:])
        assert same_bits(alone.bits(), every.bits())


@every_set
@every_form
@given(norms(40), THREADS, st.data())
@settings(max_examples=20, deadline=None)
def test_a_norm_is_the_same_in_any_company(isa: str, form: str, norm: Norm, threads: int, data: st.DataObject) -> None:
    (together,), total = compute(isa, threads, norm, [form])
    some = torch.tensor(data.draw(st.lists(st.integers(0, len(total) - 1), min_size=1, max_size=10)))
    (apart,), sums = compute(isa, data.draw(THREADS), norm.rows(some), [form])
    assert same_bits(apart.bits(), together.bits()[some])
    assert same_bits(sums, total[some])


@every_set
@every_form
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("posted", [False, True])
def test_a_norm_keeps_what_is_no_number(isa: str, form: str, bad: float, biased: bool, posted: bool) -> None:
    delta, residual, ones = random_activations(9, 100, 1), random_activations(9, 100, 2), torch.ones(100)
    norm = Norm((delta,), residual, ones, bias=ones if biased else None, post=ones if posted else None)
    (clean,), _ = compute(isa, 2, norm, [form])
    spoilt = delta.clone()
    spoilt[4, 77] = bad
    (got,), total = compute(isa, 2, replace(norm, deltas=(spoilt,)), [form])
    assert not total[4, 77].isfinite()
    assert not got.values()[4].isfinite().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert same_bits(got.bits()[others], clean.bits()[others])


@every_set
@pytest.mark.parametrize("width", [1, 31, 33, 48, 100])
def test_equal_numbers_less_their_mean_are_nothing(isa: str, width: int) -> None:
    """Columns of padding, which are 0 and not the mean, do not count: what comes out is the bias."""
    x = torch.tensor([0.1, 3.0, -777.7, 12345.6])[:, None].expand(-1, width)
    bias = torch.randn(width, generator=generator(1))
    (got,), _ = compute(isa, 1, Norm((), x, torch.ones(width), bias=bias), ["f32"])
    # The mean itself is rounded; and then by 1 / sqrt(eps).
    assert ((got.data[:, :width] - bias).abs() <= 8 * 2**-24 * x.abs() * 1e3 + 1e-6).all()
