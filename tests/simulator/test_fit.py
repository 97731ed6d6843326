"""Least squares: the parameters of synthetic steps come back, none is negative, and no better fit exists."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator.cost import CostModel, Work
from simulator.fit import Measured, fit, least_squares

from llmserve.errors import LlmserveError

TRUE = CostModel(fixed=3e-4, token=7e-5, knee=24, pair=2e-8, context=9e-8, sequence=2e-5)
WORKS = [Work(b, b, b * context, b * context) for b in (1, 2, 4, 8, 16, 32, 64) for context in (16, 128, 1024)] + [
    Work(n, 1, start + n, n * start + n * (n + 1) // 2) for n in (8, 64, 128, 512) for start in (0, 512)
]


def timed(model: CostModel, noise: float, seed: int) -> list[Measured]:
    rng = np.random.default_rng(seed)
    return [Measured("", work, model.seconds(work) * float(np.exp(noise * rng.standard_normal()))) for work in WORKS]


def test_the_parameters_of_synthetic_steps_come_back() -> None:
    found = fit(timed(TRUE, 0, 0))
    assert found.cost.model_dump() == pytest.approx(TRUE.model_dump(), rel=0.03)
    assert np.abs(found.errors).max() < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_a_little_noise_moves_predictions_by_little(seed: int) -> None:
    found = fit(timed(TRUE, 0.03, seed))
    for work in WORKS:
        assert found.cost.seconds(work) == pytest.approx(TRUE.seconds(work), rel=0.06)


def test_costs_that_are_not_there_are_found_to_be_zero() -> None:
    free = CostModel(fixed=1e-3, token=5e-5, knee=0, pair=0, context=0, sequence=0)
    found = fit(timed(free, 0, 0)).cost
    assert found.fixed == pytest.approx(1e-3, rel=0.01)
    assert found.token == pytest.approx(5e-5, rel=0.01)
    assert max(found.pair, found.context, found.sequence) < 1e-9


def test_too_few_steps_are_one_sentence() -> None:
    with pytest.raises(LlmserveError, match=r"^5 measured steps cannot tell 6 costs apart; measure more\.$"):
        fit(timed(TRUE, 0, 0)[:5])


@given(st.integers(0, 10_000))
def test_no_better_fit_without_negative_numbers_exists(seed: int) -> None:
    """The best one is a plain least-squares fit of some of the columns: try them all."""
    rng = np.random.default_rng(seed)
    matrix, target = rng.standard_normal((9, 4)), rng.standard_normal(9)
    best = np.sum(target**2)
    for some in chain.from_iterable(combinations(range(4), count) for count in range(1, 5)):
        x = np.linalg.lstsq(matrix[:, some], target, rcond=None)[0]
        if (x >= 0).all():
            best = min(best, np.sum((matrix[:, some] @ x - target) ** 2))
    found = least_squares(matrix, target)
    assert (found >= 0).all()
    assert np.sum((matrix @ found - target) ** 2) == pytest.approx(best, rel=1e-6, abs=1e-9)
