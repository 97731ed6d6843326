"""How logits become tokens: the right ones, as often as they should, and the same ones whatever else is going on."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.request import Request, SamplingParams
from llmserve.runtime.rules import Rules
from llmserve.runtime.sampler import CpuSampler, Sampler, TorchSampler, Want, uniform
from tests.kernels import KERNELS

VOCAB = 12
DRAWS = 4000


@pytest.fixture(scope="module", params=["torch", *KERNELS])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return TorchSampler(torch.device("cpu")) if request.param == "torch" else CpuSampler(request.param)


def logits_of(*seeds: int, vocab: int = VOCAB) -> Tensor:
    return torch.stack([2 * torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def params(**changes: object) -> SamplingParams:
    return replace(SamplingParams(max_tokens=100), **changes)


def tokens(sampler: Sampler, logits: Tensor, wants: list[Want]) -> list[int]:
    sampled = sampler.prepare(wants)(logits)
    assert all(s.error is None for s in sampled)
    return [s.token for s in sampled]


def ruled(chosen: SamplingParams, answered: int) -> Want:
    """The next token's, after so many that mean nothing to these parameters."""
    sequence = [0] * (9 + answered)
    rules = Rules(Request(0, (0,) * 9, chosen), VOCAB)
    return Want(chosen, len(sequence), edits=rules.edits(sequence, len(sequence)))


def draw(sampler: Sampler, row: Tensor, chosen: SamplingParams) -> np.ndarray:
    """How often each token comes, over DRAWS seeds."""
    wants = [Want(replace(chosen, seed=seed), 7) for seed in range(DRAWS)]
    return np.bincount(tokens(sampler, row.expand(DRAWS, -1), wants), minlength=len(row))


def distribution(row: Tensor, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Temperature, then the k likeliest, then the fewest of those that hold top_p of what is left."""
    weights = np.exp((row.double().numpy() - row.max().item()) / temperature)
    order = np.argsort(-weights)
    kept = order[: top_k or len(order)]
    share = np.cumsum(weights[kept]) / weights[kept].sum()
    kept = kept[: 1 + int(np.sum(share < top_p))]
    out = np.zeros(len(weights))
    out[kept] = weights[kept] / weights[kept].sum()
    return out


def far_from(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Pearson's chi-square says the counts do not come from there (p < 0.0002, by Wilson and Hilferty's cube root)."""
    degrees = len(expected) - 1
    if degrees == 0:
        return False
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * degrees)
    return ((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread) > 3.5


@pytest.mark.parametrize(
    "draws",
    [
        [uniform(seed, 5) for seed in range(20000)],
        [uniform(5, position) for position in range(20000)],
        [uniform(2**63 - 1 - seed, 0) for seed in range(20000)],
        [uniform(seed, 1000 - seed % 1000) for seed in range(20000)],
    ],
    ids=["over seeds", "over positions", "over the largest seeds", "over both"],
)
def test_uniform_is_uniform(draws: list[float]) -> None:
    assert min(draws) >= 0
    assert max(draws) < 1
    counts = np.bincount((np.array(draws) * 100).astype(int), minlength=100)
    assert not far_from(counts, np.full(100, 200.0))


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (1, 1), (1, -1), (1 << 32, 0)])
def test_uniform_forgets_its_neighbours(step: tuple[int, int]) -> None:
    """Pairs of numbers one seed or one position apart fill a square evenly."""
    pairs = [(uniform(s, p), uniform(s + step[0], p + step[1])) for s in range(100) for p in range(1, 201)]
    cells = np.array([int(a * 10) * 10 + int(b * 10) for a, b in pairs])
    assert not far_from(np.bincount(cells, minlength=100), np.full(100, 200.0))


@given(
    st.integers(0, 50),
    st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    st.integers(0, VOCAB + 2),
    st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_tokens_come_as_often_as_they_are_likely(
    sampler: Sampler, seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    row = logits_of(seed)[0]
    expected = distribution(row, temperature, top_k, top_p)
    counts = draw(sampler, row, params(temperature=temperature, top_k=top_k, top_p=top_p))
    assert (counts[expected == 0] == 0).all()
    common = expected * DRAWS > 5  # chi-square wants a few of each; the rare ones are taken together
    rare = expected[~common].sum() * DRAWS, counts[~common].sum()
    seen, due = counts[common].astype(float), expected[common] * DRAWS
    if rare[0] > 5:
        seen, due = np.append(seen, rare[1]), np.append(due, rare[0])
    assert not far_from(seen, due)


@given(st.integers(0, 1000), st.integers(1, VOCAB), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_top_k_and_top_p_keep_what_they_should(sampler: Sampler, seed: int, top_k: int, top_p: float) -> None:
    """All of it and nothing else: these logits differ so little that 400 draws leave nobody out."""
    row = logits_of(seed)[0] / 100
    wants = [Want(params(top_k=top_k, top_p=top_p, seed=s), 3) for s in range(400)]
    assert set(tokens(sampler, row.expand(400, -1), wants)) == set(np.flatnonzero(distribution(row, 1.0, top_k, top_p)))


@given(st.integers(0, 1000), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_token_depends_on_nothing_but_its_row_seed_and_position(
    sampler: Sampler, seed: int, rows: int, order: random.Random
) -> None:
    logits = logits_of(*range(seed, seed + rows), vocab=300)
    chosen = [params(), params(temperature=0), params(top_k=5), params(temperature=1.5, top_p=0.9)]
    wants = [Want(replace(chosen[i % 4], seed=i, logprobs=3), 10 + i) for i in range(rows)]
    together = sampler.prepare(wants)(logits)
    shuffled = order.sample(range(rows), rows)
    again = sampler.prepare([wants[i] for i in shuffled])(logits[shuffled])
    alone = [sampler.prepare([wants[i]])(logits[i : i + 1])[0] for i in range(rows)]
    assert together == alone
    assert together == [again[shuffled.index(i)] for i in range(rows)]


def test_another_position_or_seed_is_another_draw(sampler: Sampler) -> None:
    row = torch.zeros(1, 1000)
    drawn = [
        tokens(sampler, row, [Want(params(seed=seed), position)])[0] for seed in range(10) for position in range(10)
    ]
    assert len(set(drawn)) > 90


@pytest.mark.parametrize(
    "chosen",
    [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}, {"temperature": 5e-324}, {"top_k": 1, "temperature": 100}],
    ids=str,
)
def test_a_draw_from_one_token_is_the_greedy_choice(sampler: Sampler, chosen: dict[str, float]) -> None:
    logits = logits_of(*range(40), vocab=500)
    greedy = tokens(sampler, logits, [Want(params(temperature=0), 3)] * 40)
    assert greedy == logits.argmax(1).tolist()
    assert tokens(sampler, logits, [Want(params(seed=i, **chosen), 3) for i in range(40)]) == greedy


def test_of_equal_logits_top_k_1_takes_the_one_that_greedy_takes(sampler: Sampler) -> None:
    logits = torch.randint(0, 3, (40, 500), generator=torch.Generator().manual_seed(0)).float()
    greedy = tokens(sampler, logits, [Want(params(temperature=0), 3)] * 40)
    assert tokens(sampler, logits, [Want(params(top_k=1), 3)] * 40) == greedy


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30, 1e38])
@pytest.mark.parametrize("temperature", [1e-30, 1.0, 100.0])
def test_logits_of_any_size_give_a_token(sampler: Sampler, scale: float, temperature: float) -> None:
    logits = logits_of(1, 2, 3) / 10 * scale
    wants = [Want(params(temperature=temperature, top_p=top_p), 3) for top_p in (1.0, 0.9, 0.1)]
    assert all(0 <= token < VOCAB for token in tokens(sampler, logits, wants))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_keeps_stop_tokens_away_just_long_enough(sampler: Sampler, temperature: float) -> None:
    row = torch.zeros(1, VOCAB)
    row[0, [3, 5]] = 50.0
    chosen = params(temperature=temperature, min_tokens=2, stop_token_ids=frozenset({3, 5}))
    early = [tokens(sampler, row, [ruled(replace(chosen, seed=seed), n)])[0] for seed in range(50) for n in (0, 1)]
    late = [tokens(sampler, row, [ruled(replace(chosen, seed=seed), 2)])[0] for seed in range(50)]
    assert not {3, 5} & set(early)
    assert set(late) <= {3, 5}


def test_a_stop_token_that_the_model_does_not_have_masks_nothing(sampler: Sampler) -> None:
    row = torch.zeros(1, VOCAB)
    row[0, VOCAB - 1] = 9.0
    chosen = params(temperature=0, min_tokens=2, stop_token_ids=frozenset({-1, VOCAB, 10**9}))
    assert tokens(sampler, row, [ruled(chosen, 0)]) == [VOCAB - 1]


def test_a_masked_stop_token_keeps_its_logprob(sampler: Sampler) -> None:
    """Logprobs are the model's own opinion, whatever the request forbids."""
    row = logits_of(0)
    best = int(row.argmax())
    chosen = params(temperature=0, min_tokens=2, stop_token_ids=frozenset({best}), logprobs=1)
    (sampled,) = sampler.prepare([ruled(chosen, 0)])(row)
    assert sampled.token != best
    assert sampled.logprobs is not None
    assert sampled.logprobs.top[0][0] == best


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_numbers_is_an_error_of_that_row_alone(sampler: Sampler, bad: float) -> None:
    logits = logits_of(0, 1, 2)
    wants = [Want(params(seed=i, logprobs=2), 5) for i in range(3)]
    whole = sampler.prepare(wants)(logits)
    logits[1, 4] = bad
    sampled = sampler.prepare(wants)(logits)
    assert sampled[1].error == "the model computed logits that are not numbers."
    assert sampled[1].logprobs is None
    assert [sampled[0], sampled[2]] == [whole[0], whole[2]]


@pytest.mark.parametrize("count", [0, 1, 5, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.7])
def test_logprobs_are_the_log_softmax_of_the_logits(sampler: Sampler, count: int, temperature: float) -> None:
    logits = logits_of(0, 1, 2)
    wants = [Want(params(temperature=temperature, top_p=0.8, logprobs=count), 5)] * 3
    for row, sampled in zip(logits.double().numpy(), sampler.prepare(wants)(logits), strict=True):
        expected = np.log(np.exp(row) / np.exp(row).sum())
        assert sampled.logprobs is not None
        assert sampled.logprobs.chosen == pytest.approx(expected[sampled.token], abs=1e-5)
        assert [token for token, _ in sampled.logprobs.top] == np.argsort(-expected)[:count].tolist()
        for token, logprob in sampled.logprobs.top:
            assert logprob == pytest.approx(expected[token], abs=1e-5)


def test_no_logprobs_where_none_are_wanted(sampler: Sampler) -> None:
    assert sampler.prepare([Want(params(), 5)])(logits_of(0))[0].logprobs is None


def test_no_rows_give_no_tokens(sampler: Sampler) -> None:
    assert sampler.prepare([])(torch.empty(0, VOCAB)) == []


def test_a_token_that_is_given_is_told_of_and_not_chosen(sampler: Sampler) -> None:
    """By the prompt's count and not the answer's; nothing of how the answer is sampled matters."""
    logits = logits_of(*range(VOCAB))
    chosen = params(temperature=1.7, top_k=2, top_p=0.5, seed=3, min_tokens=5, stop_token_ids=frozenset(range(VOCAB)))
    chosen = replace(chosen, logprobs=1, prompt_logprobs=3)
    sampled = sampler.prepare([Want(chosen, 5, told) for told in range(VOCAB)])(logits)
    for told, (row, got) in enumerate(zip(logits.double().numpy(), sampled, strict=True)):
        expected = np.log(np.exp(row) / np.exp(row).sum())
        order = np.argsort(-expected).tolist()
        assert got.token == told
        assert got.logprobs is not None
        assert got.logprobs.chosen == pytest.approx(expected[told], abs=1e-5)
        assert [other for other, _ in got.logprobs.top] == order[:3]
        assert got.logprobs.rank == 1 + order.index(told)
