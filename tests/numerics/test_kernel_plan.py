"""What a program makes of a step plan's words: it computes what they say, or refuses them and goes on as before."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.scheduler.plan import Chunk
from tests.numerics.kernel_program import SETS, at, every_set, kernels, pool, words

VOCAB, ROWS, COLUMNS, BLOCKS, BLOCK, TOKENS, VARIANTS = 40, 3, 4, 6, 16, 50, 2
WIDTH, HEADS, DIM = 96, 1, 32


class Model:
    """An embedding whose rows are query, key and value of one head; then attention."""

    def __init__(self, isa: str) -> None:
        self.table = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(1))
        self.x, self.q, self.out = torch.zeros(TOKENS, WIDTH), torch.zeros(TOKENS, DIM), torch.zeros(TOKENS, DIM)
        self.last, self.weight = torch.zeros(TOKENS, DIM), torch.ones(DIM)
        self._angles = torch.zeros(2, TOKENS, DIM // 2)
        self._inverse = torch.stack([torch.linspace(1 / (v + 1), 0.1, DIM // 2) for v in range(VARIANTS)])
        size = kernels.kv_block_bytes("f32", BLOCK, 1, DIM)
        self._memory = torch.zeros(BLOCKS * size + 64, dtype=torch.uint8)
        base = self._memory.data_ptr() + -self._memory.data_ptr() % 64
        cache = kernels.kv_cache("f32", base, size, BLOCK, 1, DIM)
        cos, sin = self._angles
        self.program = p = kernels.Program(
            pool(2), isa, max_tokens=TOKENS, rows=ROWS, columns=COLUMNS, num_blocks=BLOCKS, block_size=BLOCK,
            vocab_size=VOCAB, variants=VARIANTS,
        )  # fmt: skip
        p.embedding(
            table=kernels.matrix("f32", VOCAB, WIDTH, at(self.table)), by_row=True, first=0, count=VOCAB, size=WIDTH,
            out=at(self.x), cols=WIDTH,
        )  # fmt: skip
        p.angles(inverse=at(self._inverse), pairs=DIM // 2, cos=at(cos), sin=at(sin))
        p.rope(
            cache=cache, heads=HEADS, qkv=at(self.x), stride=WIDTH, q_norm=0, k_norm=0, eps=0.0, cos=at(cos),
            sin=at(sin), q=at(self.q),
        )  # fmt: skip
        p.attention(cache=cache, heads=HEADS, window=0, q=at(self.q), out=at(self.out), scale=1.0, softcap=0.0)
        p.norm(
            deltas=[], residual=at(self.out), total=0, weight=at(self.weight), size=DIM, eps=1e-6,
            out=[kernels.rows("f32", DIM, at(self.last))], gather=True,
        )  # fmt: skip

    def run(self) -> tuple[Tensor, Tensor]:
        """(attention of every token, norms of those whose logits are wanted)."""
        self.program.run()
        return self.out[: self.program.num_tokens].clone(), self.last[: self.program.num_logits].clone()

    def step(self, *chunks: Chunk) -> tuple[Tensor, Tensor]:
        self.program.begin(words(*chunks))
        return self.run()


PROMPT = Chunk(row=1, start=0, first_block=0, tokens=tuple(range(20)), new_blocks=(4, 2), logits=1)
NEXT = Chunk(row=1, start=20, first_block=2, tokens=(7,), new_blocks=(), logits=1)
OTHER = Chunk(row=0, start=0, first_block=0, tokens=(3, 1, 4), new_blocks=(5,), logits=3)

# What is wrong, with a word of the answer.
BAD: dict[str, tuple[list[Chunk], str]] = {
    "token id too large": ([OTHER, NEXT._replace(tokens=(VOCAB,))], "token id"),
    "token id negative": ([NEXT._replace(tokens=(-1,))], "token id"),
    "block too large": ([NEXT._replace(new_blocks=(BLOCKS,))], "block"),
    "block negative": ([NEXT._replace(new_blocks=(-1,))], "block"),
    "row too large": ([NEXT._replace(row=ROWS)], "row"),
    "row negative": ([NEXT._replace(row=-1)], "row"),
    "start behind the table": ([NEXT._replace(start=COLUMNS * BLOCK)], "first position"),
    "start negative": ([NEXT._replace(start=-5)], "first position"),
    "context behind the blocks": ([NEXT._replace(start=32)], "blocks"),
    "context behind the new blocks": ([OTHER._replace(tokens=(0,) * 17)], "blocks"),
    "a row without blocks": ([NEXT._replace(row=2, start=0, first_block=0)], "blocks"),
    "a gap in the table": ([NEXT._replace(first_block=3, new_blocks=(1,))], "first new block"),
    "first block negative": ([NEXT._replace(first_block=-1)], "first new block"),
    "more blocks than columns": ([NEXT._replace(new_blocks=(0, 1, 3))], "number of new blocks"),
    "fewer blocks than before": ([NEXT._replace(first_block=0, new_blocks=(1,))], "blocks"),
    "more logits than tokens": ([NEXT._replace(logits=2)], "logits"),
    "logits negative": ([NEXT._replace(logits=-1)], "logits"),
    "no tokens": ([NEXT._replace(tokens=(), logits=0)], "tokens"),
    "more tokens than a step has": ([OTHER._replace(tokens=(0,) * (TOKENS + 1), new_blocks=(0, 1, 2, 3))], "tokens"),
    "more tokens together": ([OTHER._replace(tokens=(0,) * 49, new_blocks=(0, 1, 2, 3)), PROMPT], "tokens"),
    "rotation variant too large": ([OTHER, NEXT._replace(variant=VARIANTS)], "rotation variant"),
    "rotation variant negative": ([NEXT._replace(variant=-1)], "rotation variant"),
    "more chunks than rows": ([OTHER] * (ROWS + 1), "chunks"),
}


def expected(isa: str) -> list[tuple[Tensor, Tensor]]:
    model = Model(isa)
    return [model.step(PROMPT), model.step(NEXT), model.step(OTHER)]


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def refuse(model: Model, flat: np.ndarray, word: str = "step plan") -> None:
    with pytest.raises(ValueError, match=word) as caught:
        model.program.begin(flat)
    assert str(caught.value).startswith("the step plan")


@every_set
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_plan_is_refused_and_changes_nothing(isa: str, bad: str) -> None:
    good = expected(isa)
    model = Model(isa)
    chunks, word = BAD[bad]
    for i, chunk in enumerate((PROMPT, NEXT, OTHER)):
        if i:
            refuse(model, words(*chunks), word)
        model.program.begin(words(chunk))
        if i:
            refuse(model, words(*chunks), word)  # and the step that was taken before is still to be run
        assert equal(model.run(), good[i])


@pytest.mark.parametrize("isa", SETS[:1])
def test_words_too_few_or_too_many(isa: str) -> None:
    good, model = Model(isa).step(PROMPT), Model(isa)
    flat = words(OTHER, NEXT._replace(row=2, start=0, first_block=0, new_blocks=(3,)))
    model.program.begin(words(PROMPT))
    for end in range(len(flat)):
        refuse(model, flat[:end].copy())
    refuse(model, np.append(flat, np.int32(0)), "too many")
    refuse(model, np.array([-1], np.int32), "chunks")
    for nothing in (np.array([], np.int32), np.array([2**31 - 1], np.int32), np.array([-(2**31)], np.int32)):
        refuse(model, nothing)
    assert equal(model.run(), good)


@pytest.mark.parametrize("isa", SETS[:1])
def test_a_plan_of_no_chunks_is_a_step_of_nothing(isa: str) -> None:
    model = Model(isa)
    model.run()
    model.program.begin(words())
    attended, last = model.run()
    assert len(attended) == len(last) == 0


@every_set
def test_a_sequence_turns_as_its_plan_says(isa: str) -> None:
    both = Chunk(row=0, start=0, first_block=0, tokens=PROMPT.tokens, new_blocks=(5, 3), logits=1, variant=1)
    plain, other = Model(isa).step(PROMPT), Model(isa).step(PROMPT._replace(variant=1))
    assert equal((plain[0][:1], plain[1][:0]), (other[0][:1], other[1][:0]))  # at position 0 nothing turns
    assert not (plain[0][1:] == other[0][1:]).all(1).any()
    attended, last = Model(isa).step(PROMPT, both)
    assert equal((attended, last), (torch.cat((plain[0], other[0])), torch.cat((plain[1], other[1]))))


@every_set
def test_positions_that_no_vector_was_learned_for_are_refused(isa: str) -> None:
    """Although there are blocks for them."""
    learned = 2 * BLOCK + 5
    table, positions = torch.zeros(VOCAB, 32), torch.arange(learned).float()[:, None].expand(-1, 32).contiguous()
    out = torch.full((TOKENS, 32), torch.nan)
    program = kernels.Program(
        pool(2), isa, max_tokens=TOKENS, rows=ROWS, columns=COLUMNS, num_blocks=BLOCKS, block_size=BLOCK,
        vocab_size=VOCAB,
    )  # fmt: skip
    program.embedding(
        table=kernels.matrix("f32", VOCAB, 32, at(table)), by_row=True, first=0, count=VOCAB, size=32, out=at(out),
        cols=32, positions=kernels.matrix("f32", learned, 32, at(positions)),
    )  # fmt: skip
    blocks = (0, 1, 2)
    for start, tokens in ((0, learned + 1), (learned - 1, 2), (learned, 1)):
        with pytest.raises(ValueError, match=f"position|{learned}"):
            program.begin(words(Chunk(0, start, 0, (0,) * tokens, blocks, 0)))
    for start, tokens in ((0, learned), (learned - 1, 1)):
        program.begin(words(Chunk(0, start, 0, (0,) * tokens, blocks, 0)))
        assert not program.run()
        assert torch.equal(out[:tokens], positions[start:])


SMALL = st.integers(-2, 20)
WORD = SMALL | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([2**31 - 1, -(2**31), 2**30, VOCAB, BLOCKS])


@st.composite
def spoilt_plans(draw: st.DrawFn) -> list[int]:
    """A plan that was one until some of its words were changed."""
    chunks = []
    for row in draw(st.permutations(range(ROWS)))[: draw(st.integers(1, ROWS))]:
        tokens, blocks = draw(st.lists(st.integers(0, 39), max_size=9)), draw(st.lists(st.integers(0, 5), max_size=4))
        start, first = draw(st.integers(0, 40)), draw(st.integers(0, 2))
        logits, variant = draw(st.integers(0, 2)), draw(st.integers(0, VARIANTS))
        chunks.append(Chunk(row, start, first, tuple(tokens), tuple(blocks), logits, variant))
    flat = words(*chunks).tolist()
    for _ in range(draw(st.integers(0, 2))):
        flat[draw(st.integers(0, len(flat) - 1))] = draw(WORD)
    return flat[: draw(st.integers(0, len(flat)))] if draw(st.booleans()) else flat


@pytest.mark.parametrize("isa", [SETS[0], SETS[-1]])
@given(st.lists(st.lists(WORD, max_size=30) | spoilt_plans(), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_words_are_a_step_or_refused(isa: str, plans: list[list[int]]) -> None:
    model = Model(isa)
    for plan in plans:
        with suppress(ValueError):
            model.program.begin(np.array(plan, np.int32))
        attended, last = model.run()
        assert len(attended) <= TOKENS
        assert attended.isfinite().all()
        assert last.isfinite().all()
