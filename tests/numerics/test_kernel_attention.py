"""Rope and attention on every instruction set: right against the reference, and the same bits in any company."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.numerics.kernel_attention import Layer, Player, close, whole
from tests.numerics.kernel_program import (
    SEEDS,
    THREADS,
    SpanOf,
    at,
    every_set,
    generator,
    kernels,
    padded_vector,
    run_spans,
    same_bits,
)

KINDS = ["f32", "bf16", "s8"]
every_kind = pytest.mark.parametrize("kind", KINDS)
DIMS = [16, 24, 32, 50, 64, 80, 96, 128, 256]
WINDOWS = [0, 0, 1, 7, 33, 64, 130]


@dataclass(frozen=True)
class Case:
    """Sequences, and how they are cut into steps."""

    group: int
    kv_heads: int
    dim: int
    window: int
    normed: bool
    softcap: float
    lengths: tuple[int, ...]
    shared: tuple[int, ...]  # of each but the first: blocks that it shares with the first
    block_size: int
    chunk: int  # at most so many tokens of a sequence a step
    threads: int
    seed: int

    def layer(self, kind: str) -> Layer:
        return Layer(kind, self.group, self.kv_heads, self.dim, self.window, self.normed, self.softcap)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 4))
    return Case(
        group=draw(st.integers(1, 8)),
        kv_heads=draw(st.integers(1, 3)),
        dim=draw(st.sampled_from(DIMS)),
        window=draw(st.sampled_from(WINDOWS)),
        normed=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 0.0, 0.1, 1.5, 30.0])),
        lengths=tuple(draw(st.lists(st.integers(1, 180), min_size=count, max_size=count))),
        shared=tuple(draw(st.lists(st.integers(0, 3), min_size=count - 1, max_size=count - 1))),
        block_size=draw(st.sampled_from([16, 32, 64])),
        chunk=draw(st.sampled_from([1, 5, 16, 40, 64, 1000])),
        threads=draw(THREADS),
        seed=draw(SEEDS),
    )


def play(case: Case, player: Player, data: list[Tensor], order: Tensor, shared: list[int]) -> list[Tensor]:
    """All sequences, each a chunk a step, from the time on that what they share is there."""
    columns = -(-max(len(x) for x in data) // case.block_size)
    tables = [order[i * columns : (i + 1) * columns].tolist() for i in range(len(data))]
    done = [0] * len(data)
    for i, blocks in enumerate(shared):
        tables[i + 1][:blocks] = tables[0][:blocks]
        done[i + 1] = blocks * case.block_size
    parts: list[list[Tensor]] = [[] for _ in data]
    step = 0
    while any(n < len(x) for n, x in zip(done, data, strict=True)):
        chunks, who = [], []
        for i, x in enumerate(data):
            begin = done[i]
            ready = i == 0 or done[0] >= min(shared[i - 1] * case.block_size, len(data[0]))
            if begin >= len(x) or not ready:
                continue
            # Chunks of different lengths: where they end depends on the sequence and the step.
            end = min(len(x), begin + max(1, case.chunk - (i + step) % 4))
            chunks.append((i, begin, x[begin:end], tables[i][: -(-end // case.block_size)]))
            who.append(i)
        for i, (_, begin, x, _), out in zip(who, chunks, player.step(chunks), strict=True):
            parts[i].append(out)
            done[i] = begin + len(x)
        step += 1
    return [torch.cat(p) if p else torch.empty(0, player.layer.heads * player.layer.dim) for p in parts]


@every_set
@every_kind
@given(cases())
@settings(max_examples=20, deadline=None)
@example(Case(7, 2, 64, 0, True, 0.0, (300, 40, 1), (1, 0), 16, 64, 3, 5))
def test_a_sequence_is_the_same_however_it_is_computed(isa: str, kind: str, case: Case) -> None:
    """Whole and alone, against the reference; then in chunks, beside others, in scattered and shared blocks."""
    layer = case.layer(kind)
    first = layer.data(case.lengths[0], case.seed)
    data, shared = [first], []
    for i, length in enumerate(case.lengths[1:], 1):
        blocks = min(case.shared[i - 1], (length - 1) // case.block_size, len(first) // case.block_size)
        own = layer.data(length, case.seed + 2 * i)
        own[: blocks * case.block_size] = first[: blocks * case.block_size]
        data.append(own)
        shared.append(blocks)
    alone = [whole(layer, isa, x) for x in data]
    for x, out in zip(data, alone, strict=True):
        assert close(layer, out, x)
    player = Player(
        layer, isa, case.threads, rows=len(data), longest=max(case.lengths), block_size=case.block_size,
        most=sum(min(n, case.chunk) for n in case.lengths),
    )  # fmt: skip
    for turn in range(2):  # the second in blocks where the first left other sequences' keys and values
        order = torch.randperm(player.num_blocks, generator=generator(case.seed + turn))
        for x, out, together in zip(data, alone, play(case, player, data, order, shared), strict=True):
            assert same_bits(together, out[len(x) - len(together) :])


@every_set
@every_kind
@pytest.mark.parametrize("window", [0, 700])
def test_long_contexts(isa: str, kind: str, window: int) -> None:
    """Decoding over several splits of the context, which threads share: the same as a prompt's last rows."""
    layer = Layer(kind, 4, 1, 32, window)
    length = 1700 if isa != "portable" else 1100
    x, y = layer.data(length, 1), layer.data(600, 3)
    outs = whole(layer, isa, x), whole(layer, isa, y)
    assert close(layer, outs[0], x)
    for threads in (1, 2, 5):
        player = Player(layer, isa, threads, rows=2, longest=length, block_size=32, most=length)
        order = torch.randperm(player.num_blocks, generator=generator(threads)).tolist()
        blocks = order[: -(-length // 32)], order[-19:]
        player.step([(0, 0, x[: length - 6], blocks[0])])
        player.step([(1, 0, y[:-1], blocks[1])])
        at = length - 6
        for tokens in (1, 3, 2):
            got = player.step([(0, at, x[at : at + tokens], blocks[0]), (1, 599, y[599:], blocks[1])])
            assert same_bits(got[0], outs[0][at : at + tokens])
            assert same_bits(got[1], outs[1][599:])
            at += tokens


@every_set
@every_kind
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_what_is_no_number_stays_none_and_with_its_own(isa: str, kind: str, bad: float, softcap: float) -> None:
    """A token whose projections are no numbers: it and what sees it come out as none, other sequences as ever."""
    layer = Layer(kind, 2, 2, 32, softcap=softcap)
    x, y = layer.data(70, 1), layer.data(45, 3)
    clean = whole(layer, isa, x), whole(layer, isa, y)
    spoilt = x.clone()
    spoilt[20] = bad
    player = Player(layer, isa, 2, rows=2, longest=70)
    first, second = player.step([(0, 0, spoilt, range(5)), (1, 0, y, range(5, 8))])
    assert not first[20:].isfinite().any()
    assert same_bits(second, clean[1])
    # The same block, for another sequence: what lies behind its end is of no account.
    (third,) = player.step([(1, 0, y[:2], [1])])
    assert same_bits(third, clean[1][:2])
    (fourth,) = player.step([(1, 2, y[2:45], [1, 0, 2])])
    assert same_bits(fourth, clean[1][2:])


@every_set
@every_kind
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_a_query_that_is_no_number_stays_none(isa: str, kind: str, bad: float, softcap: float) -> None:
    """Though all the values that it weighs are numbers."""
    layer = Layer(kind, 2, 2, 32, softcap=softcap)
    x = layer.data(70, 1)
    clean = whole(layer, isa, x)
    spoilt = x.clone()
    spoilt[20, : layer.heads * layer.dim] = bad
    got = whole(layer, isa, spoilt)
    assert not got[20].isfinite().any()
    others = [i for i in range(70) if i != 20]
    assert same_bits(got[others], clean[others])


# ------------------------------------------------------------------------------------------------------------- rope


def rope(
    isa: str, threads: int, layer: Layer, spans: list[SpanOf], qkv: Tensor, growth: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """qkv [T, width], growth [T] → (q [T, heads · D], all bytes of the cache)."""
    tokens, block_size = len(qkv), 64
    size = kernels.kv_block_bytes(layer.kind, block_size, layer.kv_heads, layer.dim)
    memory = torch.zeros(len(spans) * size + 64, dtype=torch.uint8)
    base = -at(memory) % 64
    cache = kernels.kv_cache(layer.kind, at(memory) + base, size, block_size, layer.kv_heads, layer.dim)
    angles = torch.rand(tokens, layer.dim // 2, generator=generator(seed))
    cos, sin = angles.cos(), angles.sin()
    norms = [None if w is None else padded_vector(w) for w in layer.norms]
    q = torch.full((tokens, layer.heads * layer.dim), torch.nan)
    run_spans(
        isa, threads, spans, lambda p: p.rope(
            cache=cache, heads=layer.heads, qkv=at(qkv), stride=layer.width, q_norm=at(norms[0]), k_norm=at(norms[1]),
            eps=1e-6, cos=at(cos), sin=at(sin), q=at(q), growth=at(growth),
        ),
    )  # fmt: skip
    return q, memory[base : len(memory) - 64 + base].clone()


@every_set
@every_kind
@given(
    st.integers(1, 3), st.integers(1, 2), st.sampled_from([16, 24, 50, 64]), st.booleans(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=3), THREADS, SEEDS,
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_growth_is_of_queries_alone(
    isa: str, kind: str, group: int, kv_heads: int, dim: int, normed: bool, spans: list[tuple[int, int]],
    threads: int, seed: int,
) -> None:  # fmt: skip
    layer = Layer(kind, group, kv_heads, dim, normed=normed)
    steps = [SpanOf((0,) * length, start) for start, length in spans]
    tokens = sum(length for _, length in spans)
    qkv, growth = layer.data(tokens, seed), 1 + torch.rand(tokens, generator=generator(seed))
    q, cache = rope(isa, 1, layer, steps, qkv, None, seed)
    grown, same = rope(isa, threads, layer, steps, qkv, growth, seed)
    assert same_bits(grown, q * growth[:, None])
    assert same_bits(same, cache)
