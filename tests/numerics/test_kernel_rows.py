"""What kernels do to each number: other forms, activations, gates of the feed-forward block, caps of logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import to_panels
from tests.numerics.kernel_program import (
    ALL_WEIGHTS,
    FORMS,
    SEEDS,
    SETS,
    THREADS,
    Rows,
    Weights,
    at,
    convert,
    every_form,
    every_set,
    exact,
    expected_rows,
    generator,
    handle,
    kernels,
    new_rows,
    random_activations,
    random_matrix,
    run,
    same_bits,
)

BAD = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


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


# ----------------------------------------------------------------------------------------------------- activations


def gelu_tanh(x: Tensor) -> Tensor:
    """As (1 + tanh(u)) / 2 = sigmoid(2u), of which nothing is lost where it vanishes."""
    right = x * (2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).sigmoid()
    assert ((right - F.gelu(x, approximate="tanh")).abs() <= 1e-15 * x.abs()).all()
    return right


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu_tanh": gelu_tanh}
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def close_activation(got: Tensor, x: Tensor, activation: str) -> bool:
    """got [...] fp32 = act(x), x fp64: to a few roundings of the number that an exponential is taken of.

    Where it vanishes, x is divided by e^88 and no more.
    """
    right = ACTIVATIONS[activation](x)
    exponent = x.abs() if activation == "silu" else 1.6 * (x.abs() + 0.045 * x.abs() ** 3)
    return bool(((got - right).abs() <= 2**-22 * (2 + exponent) * right.abs() + 1e-38 * (1 + x.abs())).all())


def activated(isa: str, threads: int, x: Tensor, form: str, activation: str) -> Rows:
    out = new_rows(form, *x.shape)
    run(isa, threads, len(x), lambda p: p.convert(
        source=at(x), stride=x.shape[1], size=x.shape[1], out=out.handle, activation=activation
    ))  # fmt: skip
    return out


@every_set
@every_activation
@given(st.integers(1, 20), st.integers(1, 200), THREADS, st.data(), SEEDS)
@settings(max_examples=25, deadline=None)
def test_activations(
    isa: str, activation: str, tokens: int, width: int, threads: int, data: st.DataObject, seed: int
) -> None:
    x = random_activations(tokens, width, seed)
    exact = activated(isa, threads, x, "f32", activation).data[:, :width].contiguous()
    assert close_activation(exact, x.double(), activation)
    for form in FORMS:  # padding and all
        got = activated(isa, data.draw(THREADS), x, form, activation)
        assert same_bits(got.bits(), expected_rows(form, exact).bits())
    some = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=10)))
    assert same_bits(activated(isa, 1, x[some], "f32", activation).data[:, :width], exact[some])


@every_set
@every_form
@every_activation
@BAD
def test_an_activation_keeps_what_is_no_number(isa: str, form: str, activation: str, bad: float) -> None:
    x = random_activations(9, 100, 1)
    clean = activated(isa, 1, x, form, activation)
    for column in (0, 31, 63, 99):
        spoilt = x.clone()
        spoilt[4, column] = bad
        got = activated(isa, 1, spoilt, form, activation)
        # What vanishes may be -inf times 0.
        assert bad < 0 or not got.values()[4, column].isfinite()
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        assert same_bits(got.bits()[others], clean.bits()[others])


def test_an_activation_that_no_kernel_computes_is_refused() -> None:
    with pytest.raises(ValueError, match="'relu'"):
        activated(SETS[0], 1, torch.zeros(1, 32), "f32", "relu")


# ------------------------------------------------------------------------------------------------------------ gates


def gated(
    isa: str, threads: int, x: Rows, how: Weights, inner: int, cols: int, bias: Tensor | None, seed: int, form: str,
    activation: str = "silu",
) -> Rows:  # fmt: skip
    w = random_matrix(how, 2 * inner, cols, seed)
    out = new_rows(form, len(x.data), inner)
    run(isa, threads, len(x.data), lambda p: p.gated(
        x=x.handle, w=handle(w), bias=at(bias), y=out.handle, activation=activation
    ))  # fmt: skip
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
    activation = data.draw(st.sampled_from(list(ACTIVATIONS)))
    x = expected_rows(form, torch.randn(tokens, cols, generator=generator(seed)))
    bias = torch.randn(2 * inner, generator=generator(seed + 1)) if biased else None
    w = exact(random_matrix(how, 2 * inner, cols, seed))
    gate, up = (x.values() @ w.T + (0 if bias is None else bias.double())).chunk(2, dim=1)
    size = x.values().abs() @ w.abs().T + 1
    got = gated(isa, 2, x, how, inner, cols, bias, seed, "f32", activation).values()
    act = ACTIVATIONS[activation](gate)
    # An error in gate or up of a millionth of what was summed, and a few roundings of the activation.
    error = 1e-6 * (size[:, :inner] * up.abs() * 1.2 + size[:, inner:] * gate.abs()) + 1e-6 * (act * up).abs()
    assert ((got - act * up).abs() <= error + 1e-30).all()
    for other in ("s8", "bf16"):
        narrow = gated(isa, 3, x, how, inner, cols, bias, seed, other, activation)
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
@every_activation
def test_gates_of_any_size(isa: str, activation: str) -> None:
    """An activation from where it vanishes to where it is its argument."""
    gate = torch.cat(
        (torch.linspace(-120, 120, 2001), torch.tensor([0.0, 1e-30, -1e-30, 1e5, -1e5, 1e18, 1e30, -1e30]))
    )
    x = F.pad(gate[:, None], (0, 31)).contiguous()
    x[:, 1] = 1
    w = torch.zeros(64, 32)
    w[:32, 0], w[32:, 1] = 1, 1  # gate: column 0, up: column 1
    out = new_rows("f32", len(x), 32)
    table = kernels.matrix("f32", 64, 32, at(packed := to_panels("f32", w)))
    run(isa, 2, len(x), lambda p: p.gated(
        x=Rows("f32", x).handle, w=table, bias=0, y=out.handle, activation=activation
    ))  # fmt: skip
    assert packed is not None
    assert close_activation(out.data[:, 5], gate.double(), activation)


# ------------------------------------------------------------------------------------------------- caps of logits


def softcap(isa: str, threads: int, logits: Tensor, cap: float, more: int, tokens: int) -> Tensor:
    """logits [R, cols], of the last R of so many tokens, capped; in rows that are so many columns longer."""
    rows, cols = logits.shape
    y = torch.full((rows * (cols + more) - more,), 55.0)
    wide = torch.as_strided(y, (rows, cols), (cols + more, 1))
    wide.copy_(logits)
    run(isa, threads, tokens, lambda p: p.softcap(y=at(y), stride=cols + more, cols=cols, cap=cap), logits=rows)
    if more and rows > 1:
        assert (torch.as_strided(y, (rows - 1, more), (cols + more, 1), cols) == 55).all()
    return wide.clone()


@every_set
@given(
    st.integers(1, 5), st.integers(1, 9) | st.integers(255, 300), st.sampled_from([0, 3, 32]), st.integers(0, 3),
    st.sampled_from([0.5, 30.0, 50.0]), st.sampled_from([1e-3, 1.0, 30.0, 1000.0]), THREADS, SEEDS,
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_softcap(
    isa: str, rows: int, panels: int, more: int, others: int, cap: float, size: float, threads: int, seed: int
) -> None:
    """Within it, whatever the numbers; the same bits in any company and by any number of threads."""
    x = size * torch.randn(rows, 32 * panels, generator=generator(seed))
    got = softcap(isa, threads, x, cap, more, rows + others)
    right = cap * torch.tanh(x.double() / cap)
    assert ((got - right).abs() <= cap * 4e-7).all()
    for i in range(rows):
        assert same_bits(softcap(isa, 1, x[i : i + 1], cap, 0, 1)[0], got[i])


@every_set
def test_a_cap_keeps_what_is_no_number(isa: str) -> None:
    x = torch.randn(3, 64, generator=generator(1))
    clean = softcap(isa, 1, x, 30.0, 0, 3)
    spoilt = x.clone()
    spoilt[1, 5], spoilt[1, 40], spoilt[1, 41] = torch.nan, torch.inf, -torch.inf
    got = softcap(isa, 1, spoilt, 30.0, 0, 3)
    assert got[1, 5].isnan()
    assert got[1, [40, 41]].tolist() == [30.0, -30.0]
    clean[1, [5, 40, 41]] = got[1, [5, 40, 41]]
    assert same_bits(got, clean)
