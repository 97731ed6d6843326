"""Percentiles and averages are numpy's and the standard library's."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.bench.stats import Summary, median, percentile

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@given(TIMES, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)


@given(TIMES)
def test_a_summary_is_what_its_names_say(values: list[float]) -> None:
    summary = Summary.of(values)
    assert summary is not None
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.median == pytest.approx(statistics.median(values))
    assert summary.p90 == pytest.approx(float(np.percentile(values, 90)), abs=1e-9)
    assert summary.p99 == pytest.approx(float(np.percentile(values, 99)), abs=1e-9)
    assert min(values) <= summary.median <= summary.p90 <= summary.p99 <= max(values)


def test_nothing_measured_is_none_and_not_zero() -> None:
    assert Summary.of([]) is None
    assert median([None, None]) is None
    assert median([None, 3.0, 1.0]) == 2.0
