"""What the benchmarks in scripts/ make of their measurements, on measurements that were made up."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from bench_overload import MAX_GROWTH, Measured, Plan, checks_of, growth, windows
from serving_bench.gaps import Gap, above_line, beyond_chunk, chunk_time, split
from serving_bench.load import Outcome
from serving_bench.server import metrics_of
from serving_bench.watch import Sample

PLAN = Plan(
    max_num_seqs=4,
    max_queue=8,
    overload=4,
    warm=1,
    ramp=10,
    seconds=60,
    window=30,
    prompt_len=(1, 2),
    output_len=(1, 2),
    seed=0,
)
BEGIN = 1000.0
"""Of what counts."""


def answered(at: float, status: int = 200, retry_after: str | None = None) -> Outcome:
    return Outcome(at, at, at, status, retry_after, 5 if status == 200 else 0)


def measured(served: float = 1.0) -> Measured:
    """A second of overload after the other: at each one answer, at `served` of that rate, and three refusals."""
    outcomes = [answered(BEGIN + i / served) for i in range(round(60 * served))]
    outcomes += [answered(BEGIN + i / 3, 429, "2") for i in range(180)]
    samples = [Sample(BEGIN + i, running=4, waiting=8, kv_usage=0.5, rss=10**8) for i in range(60)]
    return Measured((1.0, 0.9), BEGIN, outcomes, samples, Sample(BEGIN + 60, 0, 0, 0.0, 10**8), 0.1, 0.0)


def changed(**values: object) -> Measured:
    whole = measured()
    return Measured(**({name: getattr(whole, name) for name in asdict(whole)} | values))


def failed(found: Measured) -> list[str]:
    return [check.claim for check in checks_of(found, PLAN) if not check.holds]


def test_a_server_that_bears_it_passes_and_its_windows_are_its_peak() -> None:
    assert not failed(measured())
    assert windows(measured(), PLAN) == [1.0, 1.0]


@pytest.mark.parametrize(
    "outcome", [answered(BEGIN, 429), answered(BEGIN, 429, "soon"), answered(BEGIN, 500), answered(BEGIN, 0)]
)
def test_a_bad_answer_is_found(outcome: Outcome) -> None:
    assert len(failed(changed(outcomes=[*measured().outcomes, outcome]))) == 1


def test_one_more_than_may_wait_is_found() -> None:
    assert failed(changed(samples=[*measured().samples, Sample(BEGIN, 4, 9, 0.5, 10**8)])) == ["the queue is bounded"]


def test_a_slow_window_is_found() -> None:
    assert "the others are served as fast as ever" in failed(measured(served=0.89))
    assert "the others are served as fast as ever" in failed(changed(peaks=(1.0, 1.12)))


def test_a_load_that_was_none_is_found() -> None:
    assert failed(changed(outcomes=[o for o in measured().outcomes if o.completed]))[:1] == ["the load was an overload"]


def test_growth_is_found_and_a_single_peak_is_none() -> None:
    samples = [Sample(BEGIN + i, 4, 8, 0.5, 10**8 + i * 10**5) for i in range(60)]
    assert growth(samples, 60) == pytest.approx(6e6)
    assert failed(changed(samples=samples)) == ["memory is flat"]
    samples = [*measured().samples, Sample(BEGIN + 30, 4, 8, 0.5, 2 * 10**8)]
    assert growth(samples, 60) < MAX_GROWTH * 10**8


@pytest.mark.parametrize("left", [(1, 0, 0.0), (0, 1, 0.0), (0, 0, 0.01)])
def test_whatever_is_left_is_found(left: tuple[float, float, float]) -> None:
    after = Sample(BEGIN + 60, *left, 10**8)
    assert failed(changed(afterwards=after)) == ["after the load the pool is whole"]


def test_metrics_are_added_up_over_their_labels() -> None:
    text = '# HELP llmserve_a x\nllmserve_a{model_name="m",reason="{ 1"} 2.0\nllmserve_a{model_name="n"} 1e3\nother 4\n'
    assert metrics_of(text + "llmserve_b 0.5\n") == {"a": 1002.0, "b": 0.5}


def test_gaps_are_given_to_the_chunks_by_the_answer() -> None:
    times = [0, 1, 2, 3, 8, 14, 21, 22, 23]  # three chunks, the last of which ends with the answer
    phases = split([times, [time + 0.01 for time in times]], begin=1, sent=2.5, answered=21.005, chunks=3)
    assert [gap.chunk for gap in phases.during] == [None, 0, 1, 2] * 2
    assert [round(gap.seconds) for gap in phases.during] == [1, 5, 6, 7] * 2
    assert [len(phases.before), len(phases.after)] == [2, 4]


def test_a_disturbed_chunk_does_not_bend_the_line() -> None:
    alone = [(depth, 2 + depth / 100) for depth in range(0, 90, 10)] * 3
    alone[4] = (40, 50)
    line = chunk_time(alone)
    assert (line.at_start, line.per_token) == pytest.approx((2, 0.01))
    assert above_line(alone, line) == pytest.approx(0)
    assert above_line([*alone, (10, 3), (10, 3), (10, 3), (10, 3)], line) == pytest.approx(0.9)
    assert beyond_chunk(Gap(5, 9, chunk=3), 10, line) == pytest.approx(4 - 2.3)
    assert beyond_chunk(Gap(5, 9), 10, line) == 4
