"""What kernels make of a step's tokens before the first layer: vectors of ids and positions, and angles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import DTYPES, Kind, padded, to_panels
from tests.numerics.kernel_program import (
    SEEDS,
    THREADS,
    SpanOf,
    at,
    every_set,
    generator,
    kernels,
    run_spans,
    same_bits,
)

KINDS: list[Kind] = ["bf16", "f16", "f32"]


@st.composite
def steps(draw: st.DrawFn, vocab_size: int = 1, variants: int = 1) -> list[SpanOf]:
    """Of one to four sequences, each from a position of its own on."""
    ids = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=9)
    return [
        SpanOf(tuple(draw(ids)), draw(st.integers(0, 60)), 0, draw(st.integers(0, variants - 1)))
        for _ in range(draw(st.integers(1, 4)))
    ]


def positions_of(spans: list[SpanOf]) -> Tensor:
    return torch.tensor([s.start + i for s in spans for i in range(len(s.tokens))])


# -------------------------------------------------------------------------------------------------------- embedding


@every_set
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_row", [True, False])
@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 30), THREADS, st.data(), SEEDS)
@settings(max_examples=20, deadline=None)
def test_embedding(
    isa: str, kind: Kind, by_row: bool, rows: int, width: int, first: int, threads: int, data: st.DataObject, seed: int
) -> None:
    """Exactly the table's rows, scaled; zeros for ids below and above those of this rank; plus those of positions."""
    vocab = first + rows + 20
    spans = data.draw(steps(vocab))
    scale = data.draw(st.sampled_from([1.0, 0.5, 5.65685415, -3.0]))
    values = torch.randn(rows, width, generator=generator(seed)).to(DTYPES[kind])
    values[0, 0] = 0 if kind == "f32" else 6e-8  # subnormal in fp16
    stored = values.contiguous() if by_row else to_panels(kind, values)
    table = kernels.matrix(kind, *((rows, width) if by_row else (padded(rows), padded(width))), at(stored))
    at_position, learned = None, None
    positions = positions_of(spans)
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from(KINDS))
        length = int(positions.max()) + 1
        learned = torch.randn(length, width, generator=generator(seed + 1)).to(DTYPES[other])
        at_position = kernels.matrix(other, length, width, at(learned))
    out = torch.full((len(positions), padded(width)), 77.0)
    run_spans(
        isa, threads, spans, lambda p: p.embedding(
            table=table, by_row=by_row, first=first, count=rows, size=width, out=at(out), cols=padded(width),
            scale=scale, positions=at_position,
        ), vocab_size=vocab,
    )  # fmt: skip
    expected = torch.zeros_like(out)
    for i, token in enumerate(token for s in spans for token in s.tokens):
        if first <= token < first + rows:
            expected[i, :width] = values[token - first].float()
    expected *= scale
    if learned is not None:
        expected[:, :width] += learned[positions].float()
    assert torch.equal(out, expected)


# ----------------------------------------------------------------------------------------------------------- angles


def angles(
    isa: str, threads: int, inverse: Tensor, spans: list[SpanOf], factor: float, logn_from: int
) -> tuple[Tensor, Tensor, Tensor]:
    """inverse [sets, pairs] → cos, sin [T, pairs], growth [T]."""
    tokens, pairs = sum(len(s.tokens) for s in spans), inverse.shape[1]
    cos, sin = torch.full((2, tokens, pairs), torch.nan)
    growth = torch.full((tokens,), torch.nan)
    run_spans(
        isa, threads, spans, lambda p: p.angles(
            inverse=at(inverse), pairs=pairs, cos=at(cos), sin=at(sin), factor=factor, logn_from=logn_from,
            growth=at(growth) if logn_from else 0,
        ), variants=len(inverse),
    )  # fmt: skip
    return cos, sin, growth


@every_set
@given(
    st.integers(1, 4), st.integers(1, 40), st.sampled_from([1.0, 1.0, 1.19]), st.sampled_from([0, 2, 20, 64]), THREADS,
    st.data(), SEEDS,
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_angles(
    isa: str, sets: int, pairs: int, factor: float, logn_from: int, threads: int, data: st.DataObject, seed: int
) -> None:
    """Each sequence by the set that its plan names. Pairs of frequency 0 neither turn nor grow by the factor."""
    inverse = torch.rand(sets, pairs, generator=generator(seed))
    still = data.draw(st.integers(0, pairs))
    inverse[:, pairs - still :] = 0
    spans = data.draw(steps(variants=sets))
    cos, sin, growth = angles(isa, threads, inverse, spans, factor, logn_from)
    positions = positions_of(spans)
    chosen = torch.tensor([s.variant for s in spans for _ in s.tokens])
    turned = (positions[:, None].float() * inverse[chosen]).double()
    sizes = torch.where(inverse[chosen] > 0, factor, 1.0).double()
    torch.testing.assert_close(cos.double(), turned.cos() * sizes, rtol=0, atol=2e-7)
    torch.testing.assert_close(sin.double(), turned.sin() * sizes, rtol=0, atol=2e-7)
    assert (cos[:, pairs - still :] == 1).all()
    assert (sin[:, pairs - still :] == 0).all()
    if logn_from:
        right = torch.tensor([max(1.0, math.log(p + 1) / math.log(logn_from)) for p in positions.tolist()])
        assert same_bits(growth, right)
    alone = [angles(isa, 1, inverse, [span], factor, logn_from) for span in spans]
    for together, parts in zip((cos, sin, growth), zip(*alone, strict=True), strict=True):
        assert same_bits(together, torch.cat(parts))
