"""Tokens come as often as a request's parameters say: 20 000 draws against probabilities that are worked out here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llmserve.request import Request, SamplingParams
from llmserve.runtime.rules import Rules
from llmserve.runtime.sampler import CpuSampler, Sampler, TorchSampler, Want
from tests.kernels import KERNELS

VOCAB = 16
DRAWS = 20_000
PROMPT = (1, 2, 2, 3)
ANSWER = (3, 4, 4, 4, 5, 14)
LOGITS = (1.5 * np.random.default_rng(8).standard_normal(VOCAB)).astype(np.float32)

CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.8},
    {"top_k": 4},
    {"top_p": 0.8},
    {"min_p": 0.15},
    {"presence_penalty": 1.2},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.4},
    {"repetition_penalty": 1.4},
    {"logit_bias": ((0, 2.5), (4, -1.5), (7, 1.0))},
    {"logit_bias": ((int(LOGITS.argmax()), -100.0),)},
    {"allowed_token_ids": frozenset({0, 3, 4, 9, 15})},
    {"bad_words": ((0,), (5, 14, 8), (14, 9), (4, 10))},
    {"min_tokens": 9, "stop_token_ids": frozenset({8, 12})},
    {"top_k": 6, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.1, "top_k": 7, "top_p": 0.9},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    {"repetition_penalty": 0.8, "logit_bias": ((2, 3.0), (4, 2.0)), "top_k": 8, "temperature": 1.2},
    {"allowed_token_ids": frozenset(range(2, 13)), "bad_words": ((14, 3),), "logit_bias": ((4, 4.0), (14, 9.0)),
     "frequency_penalty": 0.5, "temperature": 1.3, "min_p": 0.05, "top_k": 8, "top_p": 0.95},
]  # fmt: skip


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    """The one that is served with; that all draw the same is test_edits' and test_sampling_kernel's to say."""
    return CpuSampler(KERNELS[0]) if KERNELS else TorchSampler(torch.device("cpu"))


def probabilities(p: SamplingParams) -> np.ndarray:
    """vLLM's order, a token and a step at a time: masks, biases, penalties, temperature, min-p, top-k, top-p."""
    scores: dict[int, float] = {}
    for token in range(VOCAB):
        if p.allowed_token_ids is not None and token not in p.allowed_token_ids:
            continue
        if any(word[-1] == token and ANSWER[len(ANSWER) - len(word) + 1 :] == word[:-1] for word in p.bad_words):
            continue
        if len(ANSWER) < p.min_tokens and token in p.stop_token_ids:
            continue
        score = float(LOGITS[token]) + dict(p.logit_bias).get(token, 0.0)
        if token in PROMPT + ANSWER:
            score = score / p.repetition_penalty if score > 0 else score * p.repetition_penalty
        score -= p.frequency_penalty * ANSWER.count(token)
        score -= p.presence_penalty * (token in ANSWER)
        scores[token] = score / p.temperature
    shares = {token: math.exp(score) for token, score in scores.items()}
    shares = {token: share for token, share in shares.items() if share >= p.min_p * max(shares.values())}
    ordered = sorted(shares, key=lambda token: -shares[token])[: p.top_k or VOCAB]
    total = sum(shares[token] for token in ordered)
    out, reached = np.zeros(VOCAB), 0.0
    for token in ordered:
        if reached < p.top_p * total or not reached:
            out[token] = shares[token]
        reached += shares[token]
    return out / out.sum()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_come_as_often_as_they_are_likely(sampler: Sampler, case: dict[str, Any]) -> None:
    params = replace(SamplingParams(100), **case)
    expected = probabilities(params)
    sequence = PROMPT + ANSWER
    edits = Rules(Request(0, PROMPT, params), VOCAB).edits(sequence, len(sequence))
    wants = [Want(replace(params, seed=seed), len(sequence), edits=edits) for seed in range(DRAWS)]
    sampled = sampler.prepare(wants)(torch.from_numpy(LOGITS).expand(DRAWS, -1))
    counts = np.bincount([s.token for s in sampled], minlength=VOCAB)
    assert counts[expected == 0].sum() == 0
    common = expected * DRAWS >= 5  # of the others chi-square knows nothing
    due, seen = expected[common] * DRAWS, counts[common]
    degrees = len(due) - 1
    statistic = float(((seen - due) ** 2 / due).sum())
    # Wilson and Hilferty's cube root is nearly normal: p < 0.0003 for draws that do come from there.
    spread = 2 / (9 * degrees)
    assert ((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread) < 3.4


def test_the_cases_differ() -> None:
    """Else one of them would say nothing of its parameter."""
    shares = {tuple(probabilities(replace(SamplingParams(100), **case)).round(4)) for case in CASES}
    assert len(shares) == len(CASES)
