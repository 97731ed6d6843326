"""The reference operations against formulas written as one would on paper: loops, and float64."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops import Normalisation
from llmserve.ops.batch import Batch
from llmserve.ops.reference import Matrix, ReferenceOps, rotate, write_kv

OPS = ReferenceOps(torch.device("cpu"))
FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
SEEDS = st.integers(0, 2**32 - 1)

few = settings(max_examples=40, deadline=None)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(ours: Tensor, exact: Tensor, *, roundings: int = 4) -> bool:
    """Within a few roundings of `ours`' dtype, measured at the largest value."""
    scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
    return bool(((ours.double() - exact).abs() <= roundings * torch.finfo(ours.dtype).eps * scale).all())


def plain(weight: Tensor) -> Matrix:
    return Matrix(weight, weight.shape[1], None, 0)


def at_step(
    tokens: list[int] | None = None, logit_rows: list[int] | None = None, hidden_rows: list[int] | None = None
) -> ReferenceOps:
    """In a step with these tokens, or with these rows to be made logits, or to be wanted before that."""
    none = torch.empty(0, dtype=torch.int64)
    ids, rows, hidden = (torch.tensor(given or [], dtype=torch.int64) for given in (tokens, logit_rows, hidden_rows))
    ops = ReferenceOps(torch.device("cpu"))
    ops.begin(Batch(ids, none, none, (), none, rows, hidden))
    return ops


def norm_of(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    rows = [row / math.sqrt(sum(float(v) ** 2 for v in row) / len(row) + eps) for row in x.double()]
    return torch.stack(rows) * weight.double()


@given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-6, 1.0), FLOATS, SEEDS)
@few
def test_rms_norm(tokens: int, size: int, eps: float, dtype: torch.dtype, seed: int) -> None:
    x, weight = randn(tokens, size, seed=seed, dtype=dtype), randn(size, seed=seed + 1, dtype=dtype)
    normed, same = OPS.norm(x, Normalisation(weight, eps))
    assert same is x
    assert normed.dtype == dtype
    assert close(normed, norm_of(x, weight, eps))


@given(st.integers(1, 5), st.integers(1, 40), FLOATS, SEEDS)
@few
def test_add_rms_norm_is_the_sum_and_its_norm(tokens: int, size: int, dtype: torch.dtype, seed: int) -> None:
    x, residual, weight = (randn(*shape, seed=seed + i, dtype=dtype) for i, shape in
                           enumerate([(tokens, size), (tokens, size), (size,)]))  # fmt: skip
    normed, total = OPS.add_norm(x, residual, Normalisation(weight, 1e-6), None)
    assert torch.equal(total, x + residual)
    assert close(normed, norm_of(total, weight, 1e-6))


@given(st.integers(1, 5), st.integers(1, 30), FLOATS, SEEDS)
@few
def test_silu_gated(tokens: int, inner: int, dtype: torch.dtype, seed: int) -> None:
    """With the identity for a matrix, what is gated is what is given."""
    gate_up = 4 * randn(tokens, 2 * inner, seed=seed, dtype=dtype)
    gate, up = gate_up[:, :inner].double(), gate_up[:, inner:].double()
    assert close(
        OPS.gated(gate_up, plain(torch.eye(2 * inner, dtype=dtype)), None, "silu"), gate / (1 + torch.exp(-gate)) * up
    )


@given(st.integers(1, 9), st.integers(1, 40), st.data())
@few
def test_the_norms_of_wanted_rows_are_of_those_and_no_others(tokens: int, size: int, data: st.DataObject) -> None:
    rows, hidden = (data.draw(st.lists(st.integers(0, tokens - 1), unique=True)) for _ in range(2))
    x, residual, weight = randn(tokens, size, seed=0), randn(tokens, size, seed=1), randn(size, seed=2)
    whole, _ = OPS.add_norm(x, residual, Normalisation(weight, 1e-6), None)
    ops = at_step(logit_rows=rows, hidden_rows=hidden)
    normed, total = ops.wanted_norm(x, residual, Normalisation(weight, 1e-6), None)
    assert torch.equal(normed, whole[rows + hidden])
    assert torch.equal(total, (x + residual)[rows + hidden])
    got = ops.last_norm(x[rows + hidden], residual[rows + hidden], Normalisation(weight, 1e-6), None)
    assert torch.equal(got[0], whole[rows])
    assert torch.equal(got[1], whole[hidden])


@given(st.integers(1, 40), st.integers(1, 4), st.data())
@few
def test_shares_of_an_embedding_add_up_to_the_whole(vocab: int, ranks: int, data: st.DataObject) -> None:
    table = randn(vocab, 6, seed=vocab)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=9)))
    cuts = sorted([0, vocab, *data.draw(st.lists(st.integers(0, vocab), min_size=ranks - 1, max_size=ranks - 1))])
    ops = at_step(tokens=ids.tolist())
    for take in (lambda rows: rows, plain):  # a table by rows, and one that is the head's matrix as well
        shares = [ops.embedding(take(table[a:b]), a, 1.0, None) for a, b in pairwise(cuts) if b > a]
        assert torch.equal(sum(shares), table[ids])


@given(st.integers(1, 6), st.integers(1, 3), st.sampled_from([2, 8, 32]), SEEDS)
@few
def test_rope_turns_each_pair_by_its_angle(tokens: int, heads: int, dim: int, seed: int) -> None:
    x, angles = randn(tokens, heads, dim, seed=seed), randn(tokens, dim // 2, seed=seed + 1) * 10
    turned = rotate(x, angles.cos(), angles.sin())
    pairs = (
        torch.complex(x[..., : dim // 2], x[..., dim // 2 :]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    assert close(turned, torch.cat((pairs.real, pairs.imag), -1).double(), roundings=8)


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 5), SEEDS)
@few
def test_write_kv_touches_its_slots_and_no_other(tokens: int, heads: int, block_size: int, seed: int) -> None:
    blocks = -(-tokens // block_size) + 2
    cache = torch.full((2, blocks, block_size, heads, 4), 7.0)
    k, v = randn(tokens, heads, 4, seed=seed), randn(tokens, heads, 4, seed=seed + 1)
    slots = torch.randperm(blocks * block_size, generator=torch.Generator().manual_seed(seed))[:tokens]
    write_kv(k, v, cache, slots)
    expected = torch.full_like(cache, 7.0)
    for i, slot in enumerate(slots.tolist()):
        expected[0, slot // block_size, slot % block_size] = k[i]
        expected[1, slot // block_size, slot % block_size] = v[i]
    assert torch.equal(cache, expected)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.booleans(), FLOATS, SEEDS)
@few
def test_linear(tokens: int, rows: int, cols: int, biased: bool, dtype: torch.dtype, seed: int) -> None:
    x, weight = randn(tokens, cols, seed=seed, dtype=dtype), randn(rows, cols, seed=seed + 1, dtype=dtype)
    bias = randn(rows, seed=seed + 2, dtype=dtype) if biased else None
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert close(OPS.linear(x, plain(weight), bias), exact)


def test_an_infinite_activation_does_not_become_a_number() -> None:
    """An overflow must reach the logits, where it is seen, and not be hidden on the way."""
    x = torch.tensor([[1.0, math.inf, 2.0]])
    assert not OPS.norm(x, Normalisation(torch.ones(3), 1e-6))[0].isfinite().all()
