"""The CPU executor's sampling kernels against fp64 arithmetic on a sorted row, and against the sampler in torch."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmserve.request import Request, SamplingParams
from llmserve.runtime.edits import Edits
from llmserve.runtime.rules import Rules
from llmserve.runtime.sampler import CpuSampler, TorchSampler, Want, uniform
from tests.kernels import KERNELS as SETS

try:
    from llmserve.ops.cpu.kernels import NO_TOKEN, NOT_NUMBERS, Pool, RowSampler
except ImportError as e:
    pytest.skip(f"the CPU extension is not built: {e}", allow_module_level=True)

BELOW_ONE = math.nextafter(1.0, 0.0)
NOTHING = math.exp(-60)  # what the kernel takes for no weight at all
TOLERANCE = 1e-12  # of the total: how near to a boundary between two tokens either is right


@dataclass(frozen=True)
class Ask:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    u: float = 0.5
    num_top: int = -1
    banned: tuple[int, ...] = ()
    given: int = -1
    min_p: float = 0.0

    @property
    def edits(self) -> Edits | None:
        return Edits(banned=array("i", self.banned)) if self.banned else None


@cache
def pool_of(threads: int) -> Any:
    return Pool([], threads)


def ask_kernel(isa: str, rows: np.ndarray, asks: list[Ask], pool: Any | None = None) -> list[Any]:
    """rows [R, vocab] fp32, one ask a row."""
    assert rows.dtype == np.float32
    return RowSampler(isa, pool).sample(
        rows.ctypes.data,
        len(rows),
        rows.strides[0] // 4,
        rows.shape[1],
        array("d", [a.temperature for a in asks]),
        array("i", [a.top_k for a in asks]),
        array("d", [a.top_p for a in asks]),
        array("d", [a.min_p for a in asks]),
        array("d", [a.u for a in asks]),
        array("i", [a.num_top for a in asks]),
        [(i, *a.edits) for i, a in enumerate(asks) if a.edits is not None],
        array("i", [a.given for a in asks]),
    )


def on_every_set(row: np.ndarray, ask: Ask) -> int:
    """The token, which is the same on all of them, or why there is none."""
    answers = {ask_kernel(isa, row[None], [ask])[0] for isa in SETS}
    assert len(answers) == 1
    answer = answers.pop()
    return answer if isinstance(answer, int) else answer[0]


def permitted(row: np.ndarray, ask: Ask) -> set[int]:
    """The token that exact arithmetic would draw, and where the tolerance reaches across boundaries, its neighbours."""
    row = row.astype(np.float64)
    row[[t for t in ask.banned if 0 <= t < len(row)]] = -np.inf
    if row.max() == -np.inf:
        return {NO_TOKEN}
    if ask.temperature == 0:
        return {int(row.argmax())}
    top_k = ask.top_k if 0 < ask.top_k < len(row) else 0
    ids = np.arange(len(row))
    if top_k or ask.top_p < 1:
        ids = np.argsort(-row, kind="stable")[: top_k or None]
    with np.errstate(over="ignore"):
        exponents = (row[ids] - row.max()) / ask.temperature
    weights = np.exp(exponents)
    if ask.min_p:  # among exponents, which tell subnormals apart; no other row comes near to that boundary
        weights[exponents < math.log(ask.min_p)] = 0
    sums = weights.cumsum()
    slack = TOLERANCE * sums[-1]
    first = last = len(sums) - 1  # kept
    if ask.top_p < 1:
        first, last = (
            min(int(np.searchsorted(sums, ask.top_p * sums[-1] + s)), len(sums) - 1) for s in (-slack, slack)
        )
    low = int(np.searchsorted(sums, ask.u * sums[first] - slack, side="right"))
    high = int(np.searchsorted(sums, ask.u * sums[last] + slack, side="right"))
    reach = slice(low, min(high, last) + 1)
    return set(ids[reach][weights[reach] >= NOTHING * (1 - 1e-9)].tolist())


def random_row(kind: str, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row = rng.standard_normal(size)
    if kind == "wide":
        row *= 12
    elif kind == "flat":
        row *= 1e-4
    elif kind == "equal":
        row[:] = 1.5
    elif kind == "peaked":
        row[rng.integers(0, size, 8)] += np.linspace(15, 8, 8)
    elif kind == "ties":
        row = np.round(row * 2) / 2 * rng.choice([1.0, -1.0])
    elif kind == "zeros of both signs":
        row = np.where(row > 0, 0.0, -0.0)
    elif kind == "rising":
        row.sort()
    elif kind == "falling":
        row = -np.sort(-row)
    elif kind == "tiny":
        row *= 1e-40  # subnormal
    elif kind == "huge":
        row = np.clip(row, -3, 3) * 1e38
    return row.astype(np.float32)


KINDS = [
    "normal",
    "wide",
    "flat",
    "equal",
    "peaked",
    "ties",
    "zeros of both signs",
    "rising",
    "falling",
    "tiny",
    "huge",
]
SIZES = st.one_of(
    st.integers(1, 70),
    st.sampled_from([1023, 1024, 1025, 1039, 1040, 2048, 4099]),
    st.integers(1, 20_000),
    st.sampled_from([32_000, 151_936, 151_937, 200_003]),
)
ASKS = st.builds(
    Ask,
    temperature=st.sampled_from([0.0, 5e-324, 1e-30, 1e-3, 0.3, 0.7, 1.0, 1.0, 1.7, 100.0]) | st.floats(0.01, 10),
    top_k=st.sampled_from([0, 0, 0, 1, 2, 20, 50, 127, 128, 129, 1000, 5000, 40_000, 2**31 - 1]) | st.integers(1, 100),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.95, 0.5, 1e-9, 0.999999, BELOW_ONE]) | st.floats(0.01, 1),
    u=st.sampled_from([0.0, 0.5, BELOW_ONE]) | st.integers(0, 2**53 - 1).map(lambda n: n / 2**53),
    banned=st.lists(st.integers(-2, 80), max_size=4).map(tuple),
    min_p=st.sampled_from([0.0, 0.0, 0.0, 1e-300, 0.0123, 0.31, 0.77, 1.0]),
)  # fmt: skip


@given(st.sampled_from(KINDS), SIZES, st.integers(0, 2**32), ASKS)
@example("equal", 151_936, 0, Ask(top_p=0.9, u=0.25))
@example("equal", 1024, 0, Ask(top_p=0.5, u=0.5))
@example("normal", 151_936, 0, Ask(top_k=50, top_p=0.9))
@example("flat", 200_003, 0, Ask(top_p=0.9, u=BELOW_ONE))
@example("normal", 151_937, 0, Ask(u=BELOW_ONE))
@example("tiny", 2, 1, Ask(temperature=0.001, u=0.0, min_p=1.0))
@settings(max_examples=400, deadline=None)
def test_tokens_are_those_of_exact_arithmetic(kind: str, size: int, seed: int, ask: Ask) -> None:
    row = random_row(kind, size, seed)
    assert on_every_set(row, ask) in permitted(row, ask)


@given(
    st.sampled_from(["normal", "wide", "flat", "peaked"]),
    st.sampled_from([12, 500, 4099, 50_001]),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.7]),
    st.sampled_from([0, 1, 20, 50, 1000]),
    st.sampled_from([1.0, 0.95, 0.9, 0.5]),
    st.sampled_from([0.0, 0.0, 0.05, 0.4]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_sampled_as_the_torch_sampler_does(
    kind: str, size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float, forbid: bool
) -> None:
    """Requests' own parameters, distinct logits: no boundary is met, so tokens are equal and not just nearly so."""
    rows = np.stack([random_row(kind, size, seed + i) for i in range(4)])
    stops = frozenset({int(rows[0].argmax()), 3, -1, size}) if forbid else frozenset()
    chosen = [
        SamplingParams(100, temperature, top_p, top_k, seed=i, min_tokens=5, stop_token_ids=stops, min_p=min_p)
        for i in range(4)
    ]
    rules = [Rules(Request(0, (0,) * 9, p), size) for p in chosen]
    logits = torch.from_numpy(rows)
    wants = [Want(p, 9, edits=r.edits((0,) * 9, 9)) for p, r in zip(chosen, rules, strict=True)]
    expected = TorchSampler(torch.device("cpu")).prepare(wants)(logits)
    for isa in SETS:
        assert [s.token for s in CpuSampler(isa).prepare(wants)(logits)] == [s.token for s in expected]


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize(
    "ask",
    [Ask(), Ask(0.5), Ask(top_k=3), Ask(top_p=0.8), Ask(1.5, 6, 0.7), Ask(top_p=0.999), Ask(banned=(2, 5))],
    ids=str,
)
def test_tokens_come_as_often_as_they_are_likely(isa: str, ask: Ask) -> None:
    draws, row = 20_000, random_row("normal", 12, 3)
    rows = np.broadcast_to(row, (draws, 12))
    asks = [Ask(ask.temperature, ask.top_k, ask.top_p, uniform(i, 4), banned=ask.banned) for i in range(draws)]
    counts = np.bincount([got[0] for got in ask_kernel(isa, rows, asks)], minlength=12)
    logits = row.astype(np.float64)
    logits[list(ask.banned)] = -np.inf
    weights = np.exp((logits - logits.max()) / ask.temperature)
    order = np.argsort(-weights, kind="stable")[: ask.top_k or 12]
    share = weights[order].cumsum() / weights[order].sum()
    kept = order[: 1 + int((share < ask.top_p).sum())]
    kept = kept[weights[kept] > 0]
    due = draws * weights[kept] / weights[kept].sum()
    assert counts[kept].sum() == draws
    chi_square, degrees = float(((counts[kept] - due) ** 2 / due).sum()), len(kept) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 8


@given(st.integers(1, 3000), st.integers(0, 2999), st.sampled_from([math.nan, -math.nan, math.inf, -math.inf]), ASKS)
@settings(max_examples=60, deadline=None)
def test_a_row_that_is_not_numbers_is_found_and_spoils_no_other(size: int, at: int, bad: float, ask: Ask) -> None:
    rows = np.stack([random_row("normal", size, i) for i in range(3)])
    for isa in SETS:
        whole = ask_kernel(isa, rows, [ask] * 3)
        spoilt = rows.copy()
        spoilt[1, at % size] = bad
        assert ask_kernel(isa, spoilt, [ask] * 3) == [whole[0], NOT_NUMBERS, whole[2]]


@given(
    st.sampled_from(["normal", "wide", "flat", "equal", "peaked", "ties", "rising", "falling"]),
    SIZES,
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 5, 20, 20, 500]),
    ASKS,
)
@settings(max_examples=120, deadline=None)
def test_logprobs_are_the_log_softmax_of_the_row(kind: str, size: int, seed: int, num_top: int, ask: Ask) -> None:
    """Of the row as the model left it; of equal logits the lowest id first."""
    row = random_row(kind, size, seed)
    exact = row.astype(np.float64)
    logs = exact - exact.max() - math.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-exact, kind="stable")[:num_top]
    ask, bare = replace(ask, num_top=num_top), replace(ask, num_top=-1)
    for isa in SETS:
        (got,) = ask_kernel(isa, row[None], [ask])
        if got == NO_TOKEN:
            assert size <= len(ask.banned)
            continue
        token, (chosen, top, rank) = got
        assert ask_kernel(isa, row[None], [bare]) == [(token, None)]
        assert chosen == pytest.approx(logs[token], abs=1e-5)
        assert [t for t, _ in top] == order.tolist()
        assert [v for _, v in top] == pytest.approx(logs[order], abs=1e-5)
        assert all(v == chosen for t, v in top if t == token)
        assert rank == 1 + np.argsort(-exact, kind="stable").tolist().index(token)


@given(st.sampled_from(KINDS), st.integers(1, 2100), st.integers(0, 2**32 - 1), st.integers(0, 20), ASKS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_given_token_is_told_of_as_if_it_had_been_chosen(
    kind: str, size: int, seed: int, num_top: int, ask: Ask, data: st.DataObject
) -> None:
    row, token = random_row(kind, size, seed), data.draw(st.integers(0, size - 1))
    others = tuple(i for i in range(size) if i != token)
    told = replace(ask, num_top=num_top, given=token)  # however it is to be sampled
    for isa in SETS:
        forced = ask_kernel(isa, row[None], [Ask(0.0, num_top=num_top, banned=others)])
        assert forced[0][0] == token
        assert ask_kernel(isa, row[None], [told]) == forced
        assert ask_kernel(isa, row[None], [replace(told, num_top=-1)]) == [(token, None)]


def test_logprobs_are_torchs() -> None:
    row = random_row("peaked", 151_936, 1)
    values, ids = torch.from_numpy(row).log_softmax(0).topk(20)
    for isa in SETS:
        ((token, (chosen, top, rank)),) = ask_kernel(isa, row[None], [Ask(0.0, num_top=20)])
        assert token == ids[0]
        assert [t for t, _ in top] == ids.tolist()
        assert [v for _, v in top] == pytest.approx(values.tolist(), abs=1e-5)
        assert (chosen, rank) == (top[0][1], 1)


@given(st.integers(1, 9), st.integers(1, 2100), st.integers(0, 40), st.integers(0, 20), st.data())
@settings(max_examples=40, deadline=None)
def test_a_row_yields_the_same_alone_among_others_and_wherever_it_lies(
    rows: int, size: int, gap: int, offset: int, data: st.DataObject
) -> None:
    asks = [
        replace(a, num_top=i % 4 - 1) for i, a in enumerate(data.draw(st.lists(ASKS, min_size=rows, max_size=rows)))
    ]
    logits = np.stack([random_row(KINDS[i], size, i) for i in range(rows)])
    memory = np.full(offset + rows * (size + gap), np.nan, dtype=np.float32)  # what lies between rows is not read
    spread = np.lib.stride_tricks.as_strided(memory[offset:], (rows, size), (4 * (size + gap), 4))
    spread[:] = logits
    for isa in SETS:
        alone = [ask_kernel(isa, logits[i : i + 1], [asks[i]])[0] for i in range(rows)]
        assert ask_kernel(isa, logits, asks) == alone
        assert ask_kernel(isa, spread, asks) == alone
        assert ask_kernel(isa, logits[::-1].copy(), asks[::-1]) == alone[::-1]
        for threads in (1, 2, 5):
            assert ask_kernel(isa, logits, asks, pool_of(threads)) == alone


def test_the_logits_are_left_as_they_were() -> None:
    row = random_row("normal", 5000, 0)
    before = row.copy()
    on_every_set(row, Ask(banned=(1, 2, 3), top_p=0.9, num_top=5))
    assert (row == before).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_with_every_token_banned_there_is_none(temperature: float, top_p: float, top_k: int) -> None:
    ask = Ask(temperature, top_k, top_p, 0.7, banned=tuple(range(40)))
    assert on_every_set(random_row("normal", 40, 0), ask) == NO_TOKEN


@pytest.mark.parametrize("isa", SETS)
def test_no_rows_give_no_tokens(isa: str) -> None:
    assert ask_kernel(isa, np.empty((0, 7), np.float32), []) == []


def test_an_instruction_set_that_is_not_there_is_an_error() -> None:
    assert SETS[-1] == "portable"
    with pytest.raises(ValueError, match=r"'sse9'.*portable"):
        ask_kernel("sse9", np.zeros((1, 7), np.float32), [Ask()])


@pytest.mark.parametrize(
    "ask",
    [Ask(temperature=-1.0), Ask(temperature=math.nan), Ask(top_k=-1), Ask(top_p=0.0), Ask(top_p=1.5), Ask(u=1.0),
     Ask(u=-0.1), Ask(num_top=-2), Ask(given=-2), Ask(given=7), Ask(min_p=-0.1), Ask(min_p=1.1), Ask(min_p=math.nan)],
    ids=str,
)  # fmt: skip
def test_a_parameter_out_of_range_is_an_error(ask: Ask) -> None:
    with pytest.raises(ValueError, match="out of range"):
        ask_kernel(SETS[0], np.zeros((1, 7), np.float32), [ask])
