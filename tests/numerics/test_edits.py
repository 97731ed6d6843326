"""What a request makes of its row before a token is drawn: the kernels against torch, and both against plain sums."""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.request import SamplingParams
from llmserve.runtime.edits import Edits, edited
from llmserve.runtime.rules import mask_of
from llmserve.runtime.sampler import CpuSampler, Sampler, TorchSampler, Want
from tests.kernels import KERNELS
from tests.numerics.test_sampling_kernel import random_row

GREEDY = SamplingParams(100, temperature=0)


@pytest.fixture(scope="module", params=["torch", *KERNELS])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return TorchSampler(torch.device("cpu")) if request.param == "torch" else CpuSampler(request.param)


def random_edits(size: int, seed: int, kinds: set[str]) -> Edits:
    """Of a vocabulary of that size, with some ids that it does not have."""
    rng = np.random.default_rng(seed)

    def ids(most: int, *, repeated: bool) -> array[int]:
        return array("i", rng.choice(np.arange(-2, size + 40), min(most, size), replace=repeated).tolist())

    edits = Edits()
    if "allowed" in kinds:
        share = rng.choice([0.02, 0.5, 0.98])
        mask = rng.random(size) < share
        mask[rng.integers(0, size) // 32 * 32 :][:64] = rng.random() < 0.5  # whole words, too
        edits = edits._replace(allowed=mask_of(np.flatnonzero(mask).tolist(), size))
    if "banned" in kinds:
        edits = edits._replace(banned=ids(5, repeated=True))
    if "biased" in kinds:
        biased = ids(9, repeated=False)
        edits = edits._replace(biased=biased, biases=array("f", rng.uniform(-100, 100, len(biased)).tolist()))
    if "seen" in kinds:
        seen = ids(60, repeated=False)
        edits = edits._replace(
            seen=seen,
            counts=array("i", rng.integers(0, 5, len(seen)).tolist()),
            repetition=float(rng.choice([1.0, 1.05, 1.3, 0.7, 1e-3, 100.0])),
            frequency=float(rng.choice([0.0, 0.3, -1.1])),
            presence=float(rng.choice([0.0, 0.7, -2.0])),
        )
    return edits


def by_hand(row: np.ndarray, edits: Edits) -> np.ndarray:
    """Token by token, in fp32."""
    out = row.copy()
    counts = dict(zip(edits.seen, edits.counts, strict=True))
    biases = dict(zip(edits.biased, edits.biases, strict=True))
    largest = np.finfo(np.float32).max
    repetition, frequency, presence = np.float32([edits.repetition, edits.frequency, edits.presence])
    with np.errstate(over="ignore"):
        for token in range(len(row)):
            if (edits.allowed is not None and not edits.allowed[token // 8] >> token % 8 & 1) or token in edits.banned:
                out[token] = -np.inf
            else:
                x = np.clip(out[token] + np.float32(biases.get(token, 0)), -largest, largest)
                if token in counts:
                    x = x / repetition if x > 0 else x * repetition
                    x = x - frequency * np.float32(counts[token])
                    x = x - presence if counts[token] else x
                out[token] = np.clip(x, -largest, largest)
    return out


KINDS = st.sets(st.sampled_from(["allowed", "banned", "biased", "seen"]))


@given(
    st.sampled_from(["normal", "wide", "ties", "zeros of both signs", "huge", "tiny"]),
    st.integers(1, 3000),
    st.integers(0, 2**32),
    KINDS,
)
@settings(max_examples=60, deadline=None)
def test_torchs_edits_are_those_made_by_hand(kind: str, size: int, seed: int, kinds: set[str]) -> None:
    row, edits = random_row(kind, size, seed), random_edits(size, seed, kinds)
    assert edited(torch.from_numpy(row), edits).numpy().tolist() == by_hand(row, edits).tolist()


@given(
    st.sampled_from(["normal", "wide", "peaked"]),
    st.sampled_from([1, 31, 32, 33, 500, 4099, 50_001]),
    st.integers(0, 2**32),
    KINDS,
    st.sampled_from([SamplingParams(100, temperature=t, top_k=k, top_p=p, min_p=m)
                     for t in (0.0, 0.7, 1.3) for k in (0, 20) for p in (1.0, 0.9) for m in (0.0, 0.05)]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_the_kernels_draw_what_torch_does(
    kind: str, size: int, seed: int, kinds: set[str], params: SamplingParams
) -> None:
    """Rows with edits and rows without, and what is told of the model's own opinion."""
    rows = np.stack([random_row(kind, size, seed + i) for i in range(4)])
    some = [random_edits(size, seed + i, kinds) if i % 2 else None for i in range(4)]
    params = replace(params, logprobs=2)
    wants = [Want(replace(params, seed=i), 9, edits=edits) for i, edits in enumerate(some)]
    logits = torch.from_numpy(rows)
    expected = TorchSampler(torch.device("cpu")).prepare(wants)(logits)
    for isa in KERNELS:
        for ours, theirs in zip(CpuSampler(isa).prepare(wants)(logits), expected, strict=True):
            assert (ours.token, ours.error) == (theirs.token, theirs.error)
            assert (ours.logprobs is None) == (theirs.logprobs is None)
            if ours.logprobs and theirs.logprobs:
                assert ours.logprobs.rank == theirs.logprobs.rank
                assert ours.logprobs.chosen == pytest.approx(theirs.logprobs.chosen, abs=1e-4)  # torch adds up in fp32


def test_of_what_is_told_the_edits_are_no_part(sampler: Sampler) -> None:
    row = torch.from_numpy(random_row("normal", 50, 3))[None]
    best = int(row.argmax())
    edits = Edits(banned=array("i", [best]), biased=array("i", [7]), biases=array("f", [99.0]))
    (got,) = sampler.prepare([Want(replace(GREEDY, logprobs=1), 9, edits=edits)])(row)
    assert got.token == 7
    assert got.logprobs is not None
    assert got.logprobs.top[0][0] == best
    assert got.logprobs.chosen == pytest.approx(float(row[0].log_softmax(0)[7]), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_no_token_is_left_the_row_says_so_and_no_other_does(sampler: Sampler, temperature: float) -> None:
    rows = torch.from_numpy(np.stack([random_row("normal", 70, i) for i in range(3)]))
    params = replace(GREEDY, temperature=temperature, logprobs=1)
    plain = sampler.prepare([Want(params, 9)] * 3)(rows)
    none = Edits(allowed=mask_of([5], 70), banned=array("i", [5]))
    got = sampler.prepare([Want(params, 9, edits=none if i == 1 else None) for i in range(3)])(rows)
    assert got[1].error == "The request's parameters leave no token that could come next; loosen them."
    assert [got[0], got[2]] == [plain[0], plain[2]]


@pytest.mark.parametrize(
    "edits",
    [Edits(allowed=bytes(8)), Edits(biased=array("i", [1])), Edits(seen=array("i", [1])), Edits(repetition=0.0)],
    ids=["a mask too short", "no bias", "no count", "no penalty"],
)
@pytest.mark.parametrize("isa", KERNELS)
def test_edits_that_are_not_whole_are_an_error(isa: str, edits: Edits) -> None:
    with pytest.raises(ValueError, match=r"allowed needs|needs a bias|out of range"):
        CpuSampler(isa).prepare([Want(GREEDY, 9, edits=edits)])(torch.zeros(1, 70))
