"""Paged attention against one softmax a token over that token's own past, with blocks scattered over the cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops import Heads
from llmserve.ops.batch import Batch, Span
from llmserve.ops.reference import attend


@dataclass(frozen=True)
class Case:
    """Sequences in rows 0, 1, …: each as (positions before the step, tokens in the step)."""

    lengths: tuple[tuple[int, int], ...]
    block_size: int
    kv_heads: int
    group: int  # query heads a KV head
    window: int | None
    softcap: float
    dtype: torch.dtype
    seed: int


cases = st.builds(
    Case,
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=5).map(tuple),
    block_size=st.sampled_from([1, 3, 16]),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    window=st.none() | st.integers(1, 12),
    softcap=st.sampled_from([0.0, 0.5, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
)
DIM = 8


def naive(q: Tensor, k: Tensor, v: Tensor, group: int, window: int | None, softcap: float) -> Tensor:
    """q [new, heads, D]: the last of the positions of k, v [all, kv_heads, D]."""
    out = torch.empty(q.shape, dtype=torch.float64)
    for i in range(len(q)):
        position = len(k) - len(q) + i
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(q.shape[1]):
            keys, values = k[first : position + 1, head // group], v[first : position + 1, head // group]
            scores = keys @ q[i, head] * DIM**-0.5
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            out[i, head] = torch.softmax(scores, 0) @ values
    return out


@given(cases)
@settings(max_examples=80, deadline=None)
def test_every_token_sees_its_own_past_and_nothing_else(case: Case) -> None:
    generator = torch.Generator().manual_seed(case.seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(case.dtype)

    needed = [-(-(before + new) // case.block_size) for before, new in case.lengths]
    order = torch.randperm(sum(needed) + 3, generator=generator)
    cache = torch.full((2, len(order), case.block_size, case.kv_heads, DIM), torch.nan, dtype=case.dtype)
    stale = int(order[-1])  # a block of NaN
    table = torch.full((len(needed), max(needed) + 1), stale, dtype=torch.int32)
    spans, queries, expected = [], [], []
    used = first = 0
    for row, (before, new) in enumerate(case.lengths):
        blocks = order[used : used + needed[row]]
        used += needed[row]
        table[row, : len(blocks)] = blocks
        k, v = randn(before + new, case.kv_heads, DIM), randn(before + new, case.kv_heads, DIM)
        for position in range(before + new):
            block, offset = blocks[position // case.block_size], position % case.block_size
            cache[0, block, offset], cache[1, block, offset] = k[position], v[position]
        q = randn(new, case.kv_heads * case.group, DIM)
        spans.append(Span(first, new, before + new, row))
        queries.append(q)
        expected.append(naive(q.double(), k.double(), v.double(), case.group, case.window, case.softcap))
        first += new
    none = torch.empty(0, dtype=torch.int64)
    batch = Batch(none, none, none, tuple(spans), table, none, none)
    q = torch.cat(queries)
    heads = Heads(q.shape[1], case.kv_heads, DIM, DIM**-0.5, case.softcap, case.window, None, None)
    got = torch.cat([attend(q, cache, batch, span, heads) for span in spans])
    tolerance = 1e-5 if case.dtype == torch.float32 else 0.03
    torch.testing.assert_close(got.double(), torch.cat(expected), rtol=0, atol=tolerance)
