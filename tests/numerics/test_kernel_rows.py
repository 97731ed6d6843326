"""What kernels do to each row by itself: other forms, norms, the embedding, the gate of the feed-forward block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import DTYPES, padded, to_panels
from tests.numerics.kernel_program import (
    ALL_WEIGHTS,
    GROUP,
    SEEDS,
    THREADS,
    Rows,
    Weights,
    at,
    convert,
    every_set,
    exact,
    expected_rows,
    generator,
    handle,
    kernels,
    new_rows,
    padded_vector,
    random_activations,
    random_matrix,
    run,
    same_bits,
)

FORMS = ["s8", "bf16", "f32"]
every_form = pytest.mark.parametrize("form", FORMS)
BAD = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


def near(got: Rows, x: Tensor, roundings: float) -> bool:
    """x [T, width] fp64 in got's form, to so many roundings of fp32 (and what the form itself loses)."""
    wide = F.pad(x, (0, got.data.shape[1] - x.shape[1]))
    tolerance = roundings * 2**-24 * wide.abs()
    if got.kind == "bf16":
        tolerance = tolerance + 2**-8 * wide.abs()
    if got.kind == "s8":
        assert got.scale is not None
        assert got.sums is not None
        groups = wide.unflatten(1, (-1, GROUP))
        assert torch.equal(got.sums, -8 * got.data.unflatten(1, (-1, GROUP)).sum(-1, dtype=torch.int32))
        torch.testing.assert_close(got.scale.double(), groups.abs().amax(-1) / 127, rtol=roundings * 2**-23, atol=1e-38)
        tolerance = tolerance + (0.501 * groups.abs().amax(-1, keepdim=True) / 127).expand_as(groups).flatten(1)
    return bool(((got.values() - wide).abs() <= tolerance + 1e-30).all())


# --------------------------------------------------------------------------------------------------------- convert


@every_set
@every_form
@given(st.integers(1, 20), st.integers(1, 200), st.integers(0, 40), THREADS, SEEDS)
@settings(max_examples=25, deadline=None)
def test_convert(isa: str, form: str, tokens: int, width: int, more: int, threads: int, seed: int) -> None:
    """Bit for bit by the definition, from rows that lie as they happen to."""
    x = random_activations(tokens, width, seed)
    source = torch.full((tokens * (width + more) - more,), 55.0)
    torch.as_strided(source, (tokens, width), (width + more, 1)).copy_(x)
    out = new_rows(form, tokens, width)
    run(isa, threads, tokens, lambda p: p.convert(source=at(source), stride=width + more, size=width, out=out.handle))
    assert same_bits(out.bits(), expected_rows(form, x).bits())


@every_set
@every_form
@BAD
def test_convert_keeps_what_is_no_number(isa: str, form: str, bad: float) -> None:
    x = random_activations(9, 100, 1)
    clean = convert(isa, 1, x, form)
    for column in (0, 31, 63, 99):
        spoilt = x.clone()
        spoilt[4, column] = bad
        got = convert(isa, 1, spoilt, form)
        assert not got.values()[4, column].isfinite()
        assert same_bits(got.bits()[[0, 1, 2, 3, 5, 6, 7, 8]], clean.bits()[[0, 1, 2, 3, 5, 6, 7, 8]])


# ------------------------------------------------------------------------------------------------------------ norms


def norm(
    isa: str, threads: int, terms: list[Tensor], residual: Tensor, weight: Tensor, eps: float, forms: list[str],
    *, logits: int = 0, fresh: bool = False,
) -> tuple[list[Rows], Tensor]:  # fmt: skip
    """(the norm in each form, the residual after it). `logits`: only of the last so many rows."""
    tokens, width = residual.shape
    deltas = [F.pad(t, (0, padded(width) - width)).contiguous() for t in terms]
    total = F.pad(residual, (0, padded(width) - width)).contiguous()
    outs = [new_rows(form, logits or tokens, width) for form in forms]
    scales = padded_vector(weight)

    def record(p: object) -> None:
        p.norm(  # type: ignore[attr-defined]
            deltas=[at(d) for d in deltas], residual=at(total), weight=at(scales), size=width, eps=eps,
            out=[out.handle for out in outs], gather=logits > 0, fresh=fresh,
        )  # fmt: skip

    run(isa, threads, tokens, record, logits=logits)
    assert not total[total.isfinite().all(1), width:].any()
    return outs, total[:, :width]


@every_set
@given(st.integers(1, 12), st.integers(1, 300), st.integers(0, 3), st.booleans(), st.data(), SEEDS)
@settings(max_examples=50, deadline=None)
def test_norm(isa: str, tokens: int, width: int, terms: int, fresh: bool, data: st.DataObject, seed: int) -> None:
    g = generator(seed)
    forms = data.draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=2))
    logits, eps = data.draw(st.integers(0, tokens)), data.draw(st.sampled_from([1e-6, 1e-5, 0.1]))
    deltas = [torch.randn(tokens, width, generator=g) for _ in range(max(terms, int(fresh)))]
    residual, weight = torch.randn(tokens, width, generator=g), torch.randn(width, generator=g)
    outs, after = norm(isa, 2, deltas, residual, weight, eps, forms, logits=logits, fresh=fresh)
    total = torch.zeros_like(residual) if fresh else residual
    for delta in deltas:
        total = total + delta
    assert same_bits(after, residual if logits else total)
    wide = total[tokens - logits if logits else 0 :].double()
    right = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()
    assert all(near(out, right, 16) for out in outs)


@every_set
@every_form
@given(st.integers(2, 40), st.integers(1, 300), THREADS, st.data(), SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_norm_is_the_same_in_any_company(
    isa: str, form: str, tokens: int, width: int, threads: int, data: st.DataObject, seed: int
) -> None:
    g = generator(seed)
    delta, residual = torch.randn(tokens, width, generator=g), torch.randn(tokens, width, generator=g)
    weight = torch.randn(width, generator=g)
    (together,), total = norm(isa, threads, [delta], residual, weight, 1e-6, [form])
    some = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=10)))
    (apart,), sums = norm(isa, data.draw(THREADS), [delta[some]], residual[some], weight, 1e-6, [form])
    assert same_bits(apart.bits(), together.bits()[some])
    assert same_bits(sums, total[some])
    (last,), _ = norm(isa, 1, [delta], residual, weight, 1e-6, [form], logits=1)
    assert same_bits(last.bits(), together.bits()[-1:])


@every_set
@every_form
@BAD
def test_a_norm_keeps_what_is_no_number(isa: str, form: str, bad: float) -> None:
    delta, residual = random_activations(9, 100, 1), random_activations(9, 100, 2)
    (clean,), _ = norm(isa, 2, [delta], residual, torch.ones(100), 1e-6, [form])
    spoilt = delta.clone()
    spoilt[4, 77] = bad
    (got,), total = norm(isa, 2, [spoilt], residual, torch.ones(100), 1e-6, [form])
    assert not total[4, 77].isfinite()
    assert not got.values()[4].isfinite().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert same_bits(got.bits()[others], clean.bits()[others])


# -------------------------------------------------------------------------------------------------------- embedding


@every_set
@pytest.mark.parametrize("kind", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("by_row", [True, False])
@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 30), THREADS, st.data(), SEEDS)
@settings(max_examples=15, deadline=None)
def test_embedding(
    isa: str, kind: str, by_row: bool, rows: int, width: int, first: int, threads: int, data: st.DataObject, seed: int
) -> None:
    """Exactly the table's rows; zeros for ids below and above those of this rank."""
    vocab = first + rows + 20
    ids = data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=20))
    values = torch.randn(rows, width, generator=generator(seed)).to(DTYPES[kind])  # type: ignore[index]
    values[0, 0] = 0 if kind == "f32" else 6e-8  # subnormal in fp16
    stored = values.contiguous() if by_row else to_panels(kind, values)  # type: ignore[arg-type]
    shape = (rows, width) if by_row else (padded(rows), padded(width))
    table = kernels.matrix(kind, *shape, at(stored))
    out = torch.full((len(ids), padded(width)), 77.0)
    run(
        isa, threads, ids, lambda p: p.embedding(
            table=table, by_row=by_row, first=first, count=rows, size=width, out=at(out), cols=padded(width)
        ), vocab_size=vocab,
    )  # fmt: skip
    expected = torch.zeros_like(out)
    for i, token in enumerate(ids):
        if first <= token < first + rows:
            expected[i, :width] = values[token - first].float()
    assert torch.equal(out, expected)


# ------------------------------------------------------------------------------------------------------------ gates


def gated(
    isa: str, threads: int, x: Rows, how: Weights, inner: int, cols: int, bias: Tensor | None, seed: int, form: str
) -> Rows:
    w = random_matrix(how, 2 * inner, cols, seed)
    out = new_rows(form, len(x.data), inner)
    run(isa, threads, len(x.data), lambda p: p.gated(x=x.handle, w=handle(w), bias=at(bias), y=out.handle))
    return out


GATES = [Weights("u8"), Weights("u4", 32), Weights("u4", 64, True), Weights("bf16"), Weights("f16"), Weights("f32")]


@every_set
@pytest.mark.parametrize("how", GATES, ids=str)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data(), SEEDS)
@settings(max_examples=12, deadline=None)
def test_gated(
    isa: str, how: Weights, tokens: int, panels: int, groups: int, biased: bool, data: st.DataObject, seed: int
) -> None:
    inner, cols, form = panels * 32, groups * 64, data.draw(st.sampled_from(how.forms))
    x = expected_rows(form, torch.randn(tokens, cols, generator=generator(seed)))
    bias = torch.randn(2 * inner, generator=generator(seed + 1)) if biased else None
    w = exact(random_matrix(how, 2 * inner, cols, seed))
    gate, up = (x.values() @ w.T + (0 if bias is None else bias.double())).chunk(2, dim=1)
    size = x.values().abs() @ w.abs().T + 1
    got = gated(isa, 2, x, how, inner, cols, bias, seed, "f32").values()
    # An error in gate or up of a millionth of what was summed, and a few roundings of silu.
    error = 1e-6 * (size[:, :inner] * up.abs() * 1.1 + size[:, inner:] * gate.abs()) + 1e-6 * (F.silu(gate) * up).abs()
    assert ((got - F.silu(gate) * up).abs() <= error + 1e-30).all()
    for other in ("s8", "bf16"):
        narrow = gated(isa, 3, x, how, inner, cols, bias, seed, other)
        assert same_bits(narrow.bits(), expected_rows(other, got.float()).bits())


@every_set
@pytest.mark.parametrize("how", GATES, ids=str)
@given(st.integers(2, 120), THREADS, st.data(), SEEDS)
@settings(max_examples=8, deadline=None)
def test_a_gate_is_the_same_in_any_company(
    isa: str, how: Weights, tokens: int, threads: int, data: st.DataObject, seed: int
) -> None:
    form, out = data.draw(st.sampled_from(how.forms)), data.draw(st.sampled_from(FORMS))
    x = random_activations(tokens, 128, seed)
    together = gated(isa, threads, convert(isa, 1, x, form), how, 64, 128, None, seed, out)
    some = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=10)))
    apart = gated(isa, data.draw(THREADS), convert(isa, 1, x[some], form), how, 64, 128, None, seed, out)
    assert same_bits(apart.bits(), together.bits()[some])


@every_set
@pytest.mark.parametrize("how", ALL_WEIGHTS, ids=str)
@BAD
def test_a_gate_keeps_what_is_no_number(isa: str, how: Weights, bad: float) -> None:
    x = torch.randn(9, 128, generator=generator(1))
    spoilt = x.clone()
    spoilt[4, 77] = bad
    for form in how.forms:
        clean, got = (
            gated(isa, 2, convert(isa, 1, v, form), how, 64, 128, None, 3, "f32").values() for v in (x, spoilt)
        )
        assert not got[4].isfinite().any()
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        assert same_bits(got[others], clean[others])


@every_set
def test_gates_of_any_size(isa: str) -> None:
    """silu from where it vanishes to where it is its argument."""
    gate = torch.cat((torch.linspace(-120, 120, 2001), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4, 1e30])))
    x = F.pad(gate[:, None], (0, 31)).contiguous()
    x[:, 1] = 1
    w = torch.zeros(64, 32)
    w[:32, 0], w[32:, 1] = 1, 1  # gate: column 0, up: column 1
    out = new_rows("f32", len(x), 32)
    table = kernels.matrix("f32", 64, 32, at(packed := to_panels("f32", w)))
    run(isa, 2, len(x), lambda p: p.gated(x=Rows("f32", x).handle, w=table, bias=0, y=out.handle))
    assert packed is not None
    torch.testing.assert_close(out.data[:, 5].double(), F.silu(gate.double()), rtol=1e-6, atol=1e-34)
