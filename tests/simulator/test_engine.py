"""A real engine under the simulator's eyes: its steps are what they are taken for. Times are not judged here."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from simulator import calibrate
from simulator.calibrate import Calibration, Case, grid
from simulator.cost import Work
from simulator.engine import WatchedEngine
from simulator.fit import fit
from simulator.policy import InFlight, Policy
from simulator.simulate import simulate
from simulator.validate import SHORT, run_real
from simulator.workload import Poisson

from llmserve.config import EngineConfig

from .cases import cost

BUDGET = 32


@pytest.fixture(scope="module")
def engine(demo_engine: Path) -> WatchedEngine:
    config = EngineConfig(max_num_seqs=4, max_num_batched_tokens=BUDGET, max_model_len=256, threads=1)
    return WatchedEngine(demo_engine, config)


def test_a_grid_holds_only_what_the_engine_can_do() -> None:
    cases = grid(max_num_seqs=8, max_model_len=300, kv_tokens=1000, budget=64)
    assert Case(8, 16, 0) in cases
    assert Case(1, 128, 0) in cases
    assert Case(8, 128, 0) not in cases  # 8 · 128 tokens exceed the cache
    assert Case(0, 0, 256) in cases  # in four chunks
    assert Case(0, 0, 512) not in cases
    assert any(case.batch and case.prompt for case in cases)
    assert max(case.batch for case in cases) == 8


def test_measured_steps_are_those_of_their_cases(engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "REPEATS", 2)
    calibration = Calibration(engine, seed=0)
    calibration.cases = [Case(1, 16, 0), Case(3, 16, 0), Case(0, 0, 40), Case(2, 16, 45)]
    told: list[int] = []
    measured = calibration.measure(told.append)
    works = [(m.what, m.work) for m in measured]
    assert sum(told) == 2 * 4
    assert works[2:4] == [
        ("a prompt of 40", Work(32, 0, 32, 32 * 33 // 2)),
        ("a prompt of 40", Work(8, 1, 40, 8 * 32 + 8 * 9 // 2)),
    ]
    assert [(w.tokens, w.sequences) for _, w in works[:2]] == [(1, 1), (3, 3)]
    assert works[1][1].contexts == works[1][1].pairs > 3 * 16
    assert [(w.tokens, w.sequences) for _, w in works[4:]] == [(32, 2), (2 + 15, 3)]
    assert all(m.seconds > 0 for m in measured)
    assert not engine.has_work


def test_a_whole_calibration_fits(engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "REPEATS", 1)
    found = fit(Calibration(engine, seed=0).measure(lambda count: None))
    machine = engine.machine(found.cost)
    assert (machine.max_num_seqs, machine.max_model_len) == (4, 256)
    assert machine.kv_tokens == engine.kv.num_tokens
    assert found.cost.seconds(Work(32, 1, 32, 528)) > 0


def test_the_real_engine_serves_the_whole_trace(engine: WatchedEngine) -> None:
    trace = SHORT.at(Poisson(400)).draw(12, 0)
    np.minimum(trace.outputs, 100, out=trace.outputs)
    told: list[int] = []
    seen = run_real(engine, trace, random.Random(0), told.append)
    assert sum(told) == 12
    assert not engine.has_work
    assert (seen.ttft > 0).all()
    assert seen.throughput > 0


def test_the_simulator_plans_the_steps_that_the_engine_plans(engine: WatchedEngine) -> None:
    """With all requests there at once time plays no part, so that every step is the same, on either side."""
    trace = SHORT.draw(12, 3)
    np.minimum(trace.prompts, 120, out=trace.prompts)
    np.minimum(trace.outputs, 100, out=trace.outputs)
    steps: list[Work] = []
    step = engine.step

    def watched():  # type: ignore[no-untyped-def]
        done = step()
        steps.append(engine.last_work())
        return done

    engine.step = watched  # type: ignore[method-assign]
    run_real(engine, trace, random.Random(1), lambda count: None)
    policy = Policy("engine", "this engine", InFlight(), BUDGET, engine.config.prefix_caching)
    model = cost(fixed=0, token=1e-3, pair=1e-6, context=1e-6, sequence=1e-6)
    done = simulate(trace, policy, engine.machine(model), lambda count: None)
    assert list(done.steps.tokens) == [work.tokens for work in steps]
    assert list(done.steps.generated) == [work.sequences for work in steps]
    assert list(done.steps.seconds) == [model.seconds(work) for work in steps]
