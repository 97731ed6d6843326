"""Requests are a function of the seed, and have the lengths and the arrivals that are stated."""

from __future__ import annotations

import numpy as np
import pytest
from simulator.workload import Arrivals, Bursts, Lengths, Poisson, Prefixes, Together, Workload

from llmserve.errors import ConfigError

LONG = Workload(Lengths(75, 1.0, 4096), Lengths(122, 1.0, 2048), Prefixes(4, 16, 1.0), Poisson(5))


def test_the_same_seed_asks_the_same() -> None:
    first, second, other = LONG.draw(500, 3), LONG.draw(500, 3), LONG.draw(500, 4)
    for name in ("arrivals", "prompts", "outputs", "prefixes"):
        assert (getattr(first, name) == getattr(second, name)).all()
        assert (getattr(first, name) != getattr(other, name)).any()


@pytest.mark.parametrize("arrivals", [Poisson(1), Bursts(3, 10, 30, 3), Together()], ids=str)
def test_other_arrivals_do_not_change_what_is_asked(arrivals: Arrivals) -> None:
    first, second = LONG.draw(500, 3), LONG.at(arrivals).draw(500, 3)
    for name in ("prompts", "outputs", "prefixes"):
        assert (getattr(first, name) == getattr(second, name)).all()
    assert (np.diff(second.arrivals) >= 0).all()


def test_lengths_are_log_normal_up_to_the_longest() -> None:
    lengths = Lengths(122, 1.0, 2048).draw(np.random.default_rng(0), 200_000)
    assert lengths.min() >= 1
    assert lengths.max() == 2048
    assert np.median(lengths) == pytest.approx(122, rel=0.02)
    assert np.quantile(lengths, 0.8413) == pytest.approx(122 * np.e, rel=0.02)  # a standard deviation above
    assert lengths.mean() == pytest.approx(200, rel=0.01)


def test_poisson_arrivals_have_their_rate() -> None:
    gaps = np.diff(Poisson(8).draw(np.random.default_rng(0), 100_000))
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.02)  # as of no other spread of gaps that share its mean


def test_bursts_have_the_mean_rate_and_come_in_bursts() -> None:
    shape = Bursts(8, burst=10, lull=30, peak=3)
    assert shape.lull_rate == pytest.approx(8 / 3)  # 10 s at 24 and 30 s at 8/3 are 320 in 40 s
    arrivals = shape.draw(np.random.default_rng(0), 200_000)
    assert len(arrivals) / arrivals[-1] == pytest.approx(8, rel=0.05)
    counts = np.histogram(arrivals, bins=np.arange(0, arrivals[-1]))[0]
    assert counts.var() > 5 * counts.mean()  # a Poisson process's are equal
    with pytest.raises(ConfigError, match="exceed that mean; lower the peak or lengthen the lulls"):
        Bursts(8, burst=10, lull=10, peak=3)


def test_prompts_begin_alike_and_go_on_differently() -> None:
    trace = LONG.draw(300, 0)
    requests = [trace.request(index) for index in range(len(trace))]
    assert [len(request.prompt) for request in requests] == trace.prompts.tolist()
    assert [request.sampling.max_tokens for request in requests] == trace.outputs.tolist()
    assert len({request.prompt[:16] for request in requests}) == 4
    assert len({request.prompt[16] for request in requests}) == 300
    chosen = np.bincount(trace.prefixes)
    assert chosen[0] > 1.5 * chosen[1] > 1.5 * chosen[3]


def test_without_common_beginnings_there_are_none() -> None:
    trace = Workload(Lengths(5, 1, 50), Lengths(5, 1, 50), Prefixes(0, 0, 0), Together()).draw(50, 0)
    assert len({trace.request(index).prompt[0] for index in range(50)}) == 50
    assert trace.prompts.max() <= 50


def test_impossible_lengths_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^lengths with median 50, sigma 1 and at most 10 do not exist; .*\.$"):
        Lengths(50, 1, 10)
