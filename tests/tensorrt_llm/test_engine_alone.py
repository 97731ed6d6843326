"""As test_engine, each with an executor of its own: how answers end by themselves, statistics, and what goes wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm.plan_line import Listener, Speaker
from llmserve.engine.messages import Stats
from llmserve.errors import EngineDeadError
from llmserve.request import Finish, Request
from llmserve.tensorrt_llm import guard
from tests.tensorrt_llm.driven import END, GREEDY, OTHER_END, PROMPT, build_here, driven, expected, tokens


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> EngineDir:
    return build_here(tmp_path_factory.mktemp("engine"))


def test_the_models_own_end_is_put_back(engine_dir: EngineDir, tmp_path: Path) -> None:
    with driven(engine_dir, tmp_path, ends_after=3) as made:
        ending = replace(GREEDY, stop_token_ids=frozenset({END, OTHER_END}))
        events = made.run(Request(0, PROMPT, ending))
        assert tokens(events) == [*expected(3), END]
        assert [event.finish for event in events] == [None, None, None, Finish.STOP]
        events = made.run(Request(1, PROMPT, replace(ending, logprobs=0)))
        assert tokens(events) == [*expected(3), END]
        assert all(event.logprobs is not None for event in events)
        held = made.run(Request(2, PROMPT, replace(ending, stop_token_ids=frozenset({END}), min_tokens=5)))
        assert tokens(held) == [*expected(5), END]


def test_statistics_are_what_the_iterations_said(engine_dir: EngineDir, tmp_path: Path) -> None:
    with driven(engine_dir, tmp_path, iteration_seconds=0.01) as made:
        assert made.engine.stats() == Stats(0, 0, 0.0, 0, 0, 0, 0, 0)
        for i in range(6):
            made.engine.submit(Request(i, PROMPT, replace(GREEDY, max_tokens=900)))
        made.until(lambda: made.engine.stats().kv_usage > 0)
        # The first iteration has seen one request, the others came while it ran.
        made.until(lambda: (made.engine.stats().running, made.engine.stats().waiting) == (4, 2))
        for i in range(6):
            made.engine.abort(i)
        made.until(lambda: not made.engine.has_work)
        deadline = time.monotonic() + 20
        while made.engine.stats().prefix_queries < 6 * 32 and time.monotonic() < deadline:
            time.sleep(0.01)
        idle = made.engine.stats()
        assert (idle.running, idle.waiting, idle.kv_usage) == (0, 0, 0.0)
        assert made.engine.kv_cache_tokens == 1024 * 32
        assert idle.scheduled_tokens >= 40 + 3 * 8  # the prompts of those who ran, as far as they were not found
        # One block of 32 in each prompt of 40: the first looked in vain, the others found it.
        assert (idle.prefix_queries, idle.prefix_hits) == (6 * 32, 5 * 32)


def test_a_failed_iteration_ends_what_ran_in_it(engine_dir: EngineDir, tmp_path: Path) -> None:
    with driven(engine_dir, tmp_path) as made:
        made.stand_in.switch("fail")
        [event] = made.run(Request(0, PROMPT, GREEDY))
        assert event.finish is Finish.ERROR
        assert not event.refused
        assert event.error is not None
        assert "forwardAsync" in event.error
        assert tokens(made.run(Request(1, PROMPT, GREEDY))) == expected(6)


def test_work_that_stands_still_is_noticed(
    engine_dir: EngineDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard.faulthandler, "dump_traceback", lambda **where: None)  # pytest has no such stderr
    monkeypatch.setattr(guard, "GRACE", 300)  # it would end this process
    with driven(engine_dir, tmp_path, stall_timeout=0.5) as made:
        time.sleep(0.8)
        made.engine.step()  # nothing stands still where there is nothing to do
        made.stand_in.switch("hang")
        made.engine.submit(Request(0, PROMPT, GREEDY))
        with pytest.raises(EngineDeadError, match=r"no step for 0\.5 s although there is work"):
            made.until(lambda: False)


def test_a_rank_that_is_gone_is_noticed(engine_dir: EngineDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "GRACE", 300)  # it would end this process
    speaker = Speaker("127.0.0.1", 1)
    listener = Listener(speaker.address, speaker.token)
    speaker.accept()
    with driven(engine_dir, tmp_path, speaker=speaker) as made:
        assert tokens(made.run(Request(0, PROMPT, GREEDY))) == expected(6)
        listener.close()
        with pytest.raises(EngineDeadError, match="another rank of the engine is gone"):
            made.until(lambda: False)
    speaker.close()
