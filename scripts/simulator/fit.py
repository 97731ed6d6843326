"""Measured steps to a cost model: least squares of the relative errors, with no cost below zero.

All of the model is linear but the knee; given one, `max(tokens, knee)` is just another column. So every knee that the
measurements can tell apart is tried, and the one with the smallest error is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmserve.errors import LlmserveError
from simulator.cost import CostModel, Work

Matrix = NDArray[np.float64]

KNEES = 400
"""Tried at most, evenly between none and the largest step."""
PARAMETERS = 6


@dataclass(frozen=True, slots=True)
class Measured:
    what: str
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    cost: CostModel
    measured: tuple[Measured, ...]

    @property
    def errors(self) -> Matrix:
        """Relative, of each measured step: positive where the model takes it for longer than it was."""
        return np.array([self.cost.seconds(m.work) / m.seconds - 1 for m in self.measured])


def fit(measured: Sequence[Measured]) -> Fit:
    """LlmserveError where there are fewer steps than things to learn from them."""
    if len(measured) < PARAMETERS:
        raise LlmserveError(f"{len(measured)} measured steps cannot tell {PARAMETERS} costs apart; measure more.")
    seconds = np.array([m.seconds for m in measured])
    tokens, sequences, contexts, pairs = np.array([m.work for m in measured], dtype=float).T

    def columns(knee: float) -> Matrix:
        parts = (np.ones_like(tokens), np.maximum(tokens, knee), pairs, contexts, sequences)
        return np.stack(parts, axis=1) / seconds[:, None]

    def error(knee: float) -> float:
        matrix = columns(knee)
        return float(np.sum((matrix @ least_squares(matrix, np.ones_like(seconds)) - 1) ** 2))

    knees = np.unique(np.linspace(0, tokens.max(), KNEES).round())
    knee = float(min(knees, key=error))
    fixed, token, pair, context, sequence = least_squares(columns(knee), np.ones_like(seconds)).tolist()
    cost = CostModel(fixed=fixed, token=token, knee=knee, pair=pair, context=context, sequence=sequence)
    return Fit(cost, tuple(measured))


def least_squares(matrix: Matrix, target: Matrix) -> Matrix:
    """The x of no negative number that brings `matrix` · x closest to `target` (Lawson and Hanson 1974)."""
    scale = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(scale > 0, scale, 1)
    x, free = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1], dtype=bool)
    for _ in range(10 * matrix.shape[1]):
        gain = np.where(free, -np.inf, scaled.T @ (target - scaled @ x))
        if gain.max() <= 1e-9 * np.linalg.norm(target):
            break
        free[gain.argmax()] = True
        while True:
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(scaled[:, free], target, rcond=None)[0]
            if (best[free] > 0).all():
                x = best
                break
            # As far towards it as nothing turns negative; what reaches zero stays there for now.
            back = free & (best <= 0)
            share = np.min(x[back] / (x[back] - best[back])) if (x[back] > 0).any() else 0.0
            x = x + share * (best - x)
            free &= x > 1e-12
            x[~free] = 0
    return x / np.where(scale > 0, scale, 1)
