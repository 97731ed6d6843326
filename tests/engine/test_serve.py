"""Rank 0's loop, between a scripted front and a real engine."""

from __future__ import annotations

import pytest

from llmserve.engine.messages import Abort, Drain, Events, Ready, Stats, Stopped, Submit, ToEngine, ToFront
from llmserve.engine.serve import EngineLoop
from llmserve.errors import EngineDeadError
from llmserve.request import Finish, Request, SamplingParams
from tests.engine.answers import Built, Engine

READY = Ready(max_model_len=1, max_num_seqs=1, kv_cache_tokens=1, block_size=1, tp_size=1, device="cpu")


class Front:
    """Says what it is told to say, a list at a time, and remembers what it hears."""

    signals = 0

    def __init__(self, *script: list[ToEngine]) -> None:
        self._script = list(script)
        self.heard: list[ToFront] = []

    def send(self, message: ToFront) -> None:
        # As it is now: the loop goes on with its list.
        self.heard.append(Events(list(message.events), message.stats) if isinstance(message, Events) else message)

    def receive(self, timeout: float | None) -> list[ToEngine]:
        assert self._script or timeout == 0, "asleep, and nobody will say anything"
        return self._script.pop(0) if self._script else []


def serve(built: Built, *script: list[ToEngine], **config: object) -> list[ToFront]:
    front = Front(*script)
    EngineLoop(Engine(built, **config).native, front, shutdown_timeout=0).run(READY)
    assert isinstance(front.heard[0], Ready)
    assert isinstance(front.heard[-1], Stopped)
    return front.heard


def events(heard: list[ToFront]) -> list[object]:
    return [event for message in heard if isinstance(message, Events) for event in message.events]


def greedy(request_id: int, length: int, new: int) -> Submit:
    return Submit(Request(request_id, (5,) * length, SamplingParams(max_tokens=new, temperature=0)))


def test_all_events_arrive_although_they_are_sent_a_step_later(built: Built) -> None:
    told = events(serve(built, [greedy(0, 3, 4), greedy(1, 3, 2)], [Drain(60)]))
    assert [event.request_id for event in told] == [0, 1, 0, 1, 0, 0]
    assert [event.finish for event in told] == [None, None, None, Finish.LENGTH, None, Finish.LENGTH]


def test_the_last_step_of_all_is_told_before_the_loop_sleeps(built: Built) -> None:
    heard = serve(built, [greedy(0, 3, 1)], [], [], [Drain(60)])
    assert [event.finish for event in events(heard)] == [Finish.LENGTH]


def test_an_abort_between_two_steps_is_one_event(built: Built) -> None:
    told = events(serve(built, [greedy(0, 3, 40), greedy(1, 3, 5)], [], [Abort(0), Abort(7)], [Drain(60)]))
    mine = [event for event in told if event.request_id == 0]
    assert mine[-1].finish is Finish.ABORT
    assert len(mine) == 3
    assert sum(event.finish is not None for event in told) == 2


def test_what_a_stop_breaks_off_is_in_the_log(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    told = events(serve(built, [greedy(0, 3, 40), greedy(1, 3, 1)], [], [], [Drain(0)]))
    assert [event.finish for event in told if event.finish] == [Finish.LENGTH, Finish.ABORT]
    assert "1 requests are broken off, as their time to finish is over" in caplog.text


def test_that_somebody_waits_is_told_before_anybody_has_a_token(built: Built) -> None:
    """And that nobody does any more, as soon as that is so: the front lets requests in by it."""
    heard = serve(built, [greedy(0, 40, 3), greedy(1, 4, 3)], [Drain(60)], max_num_batched_tokens=8, max_num_seqs=1)
    alone = [(i, message.waiting) for i, message in enumerate(heard) if isinstance(message, Stats)]
    first_token = next(i for i, message in enumerate(heard) if isinstance(message, Events))
    assert [waiting for _, waiting in alone] == [0, 1]  # at the start, and with the first step
    assert alone[-1][0] < first_token
    turned = [m.stats.waiting for m in heard if isinstance(m, Events) and m.stats is not None]
    assert turned[-1] == 0


def test_a_step_that_fails_costs_nobody_what_the_step_before_has_yielded(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, front, plans = Engine(built).native, Front([greedy(0, 3, 1), greedy(1, 3, 9)]), []

    def broadcast(words: object) -> object:
        plans.append(words)
        if len(plans) > 1:
            raise EngineDeadError("rank 1 is gone.")
        return words

    monkeypatch.setattr(engine._comm, "broadcast", broadcast)
    with pytest.raises(EngineDeadError, match="rank 1 is gone"):
        EngineLoop(engine, front, shutdown_timeout=0).run(READY)
    assert [(event.request_id, event.finish) for event in events(front.heard)] == [(0, Finish.LENGTH), (1, None)]
