"""The bounded queue: who is let in, who is sent away and until when; the rule by itself, then through HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.config import ServerConfig
from llmserve.engine.messages import Stats, Submit
from llmserve.server.admission import MAX_RETRY_S, SPREAD, Admission, Load, QueueFullError
from llmserve.tokenizer import Tokenizer

from .conftest import Front, running_front
from .fake_engine import READY, wait_for
from .test_lifecycle import in_thread

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def admitted(asked: int, max_queue: int, load: Load) -> bool:
    try:
        Admission(max_queue).check(asked, load, now=0)
    except QueueFullError:
        return False
    return True


small = st.integers(0, 6)


@given(running=small, free=small, waiting=small, on_the_way=small, asked=st.integers(1, 9), max_queue=small)
def test_as_long_as_nobody_waits_free_rows_count_and_then_only_the_queue(
    running: int, free: int, waiting: int, on_the_way: int, asked: int, max_queue: int
) -> None:
    rows = max(1, running + free)
    load = Load(open=running + waiting + on_the_way, running=running, waiting=waiting, max_num_seqs=rows)
    room = max_queue - waiting if waiting else rows - running + max_queue
    assert admitted(asked, max_queue, load) == (on_the_way + asked <= room)


@given(rows=st.integers(1, 6), max_queue=small, asked=st.integers(1, 13), running=small, waiting=small)
def test_an_idle_server_takes_what_it_can_hold_whatever_it_last_heard(
    rows: int, max_queue: int, asked: int, running: int, waiting: int
) -> None:
    load = Load(open=0, running=min(running, rows), waiting=waiting, max_num_seqs=rows)
    assert admitted(asked, max_queue, load) == (asked <= Admission(max_queue).most(rows))


@pytest.mark.parametrize(
    "asked, waiting, ended_at, seconds",
    [
        (1, 100, [], MAX_RETRY_S),  # nothing is known
        (1, 100, [60.0], MAX_RETRY_S),  # nothing recent
        (1, 100, [90.0 + i for i in range(10)], 25),  # one a second, and a quarter of the queue
        (1, 101, [90.0 + i for i in range(10)], 26),
        (60, 100, [90.0 + i / 10 for i in range(100)], 6),  # ten a second, and room for all of the call
        (1, 100, [95.0] * 50, 3),
        (1, 2, [95.0] * 50, 1),  # at least one
        (1, 4000, [95.0] * 50, MAX_RETRY_S),
        (1, 4, [99.999], 1),  # one a moment ago is one a second, not a thousand
        (1, 40, [99.999], 10),
    ],
)
def test_when_to_come_back(asked: int, waiting: int, ended_at: list[float], seconds: int) -> None:
    load = Load(open=8 + waiting, running=8, waiting=waiting, max_num_seqs=8, ended_at=ended_at)
    with pytest.raises(QueueFullError) as caught:
        Admission(waiting, lambda: 0.0).check(asked, load, now=100.0)
    assert caught.value.retry_after == seconds
    with pytest.raises(QueueFullError) as caught:
        Admission(waiting, lambda: 1.0).check(asked, load, now=100.0)
    assert caught.value.retry_after == seconds * (1 + SPREAD)


def test_a_crowd_is_spread() -> None:
    told = set()
    for _ in range(50):
        with pytest.raises(QueueFullError) as caught:
            Admission(4).check(1, Load(open=12, running=8, waiting=4, max_num_seqs=8), now=0.0)
        told.add(caught.value.retry_after)
    assert len(told) == 50
    assert min(told) >= MAX_RETRY_S
    assert max(told) <= MAX_RETRY_S * (1 + SPREAD)


def test_the_sentence_has_the_numbers() -> None:
    with pytest.raises(QueueFullError) as caught:
        Admission(7, lambda: 0.0).check(3, Load(open=14, running=8, waiting=5, max_num_seqs=8), now=0)
    assert str(caught.value) == (
        "There is no room for 3 more requests: 8 run, and 6 wait, of at most 7; try again in 30 s."
    )


@pytest.fixture
def full_front(endpoint: str) -> Iterator[Front]:
    """Eight requests run and do not end before a test lets them, one of the two that may wait does."""
    with running_front(endpoint, config=ServerConfig(max_queue=2)) as front:
        assert READY.max_num_seqs == 8
        for _ in range(3):
            front.complete(n=8, max_tokens=1)  # so that it is known how fast requests end
        front.engine.received.clear()
        front.engine.allowance = 0
        fill = in_thread(lambda: front.post("/v1/completions", prompt=["a", "b", "c"], n=3, max_tokens=5))
        wait_for(lambda: len(front.engine.running) == 9)
        yield front
        front.engine.allowance = None
        assert fill().status_code == 200
        assert front.client.open_requests == 0


def sent(front: Front) -> int:
    return len([message for message in front.engine.received if isinstance(message, Submit)])


@pytest.mark.parametrize("path, stream", [("/v1/completions", False), (CHAT, False), (CHAT, True)])
def test_a_call_without_room_is_refused_whole_and_at_once(full_front: Front, path: str, stream: bool) -> None:
    body: dict[str, Any] = {"messages": HI} if path == CHAT else {"prompt": "hi"}
    refused = full_front.post(path, **body, n=2, stream=stream)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 45
    assert 0 <= int(refused.headers["retry-after"]) - int(refused.headers["retry-after-ms"]) / 1000 < 1
    error = refused.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("rate_limit_error", None, "queue_full")
    assert "8 run, and 1 wait, of at most 2" in error["message"]
    assert sent(full_front) == 9, "the engine hears nothing of it"
    metrics = full_front.http.get("/metrics").text
    assert 'llmserve_request_refused_total{model_name="tiny",reason="queue_full"} 2.0' in metrics
    last = in_thread(lambda: full_front.post(path, **body, stream=stream, max_tokens=3))
    wait_for(lambda: sent(full_front) == 10)
    assert full_front.post(path, **body).status_code == 429
    full_front.engine.allowance = None
    assert last().status_code == 200
    wait_for(lambda: full_front.client.open_requests == 0)
    assert full_front.post(path, **body, n=10, max_tokens=1).status_code == 200


def test_what_could_never_be_admitted_is_another_matter(full_front: Front) -> None:
    error = full_front.refused(n=11)
    assert (error["param"], error["code"]) == ("n", None)
    assert "asks for 11 choices" in error["message"]
    assert "10 are the most" in error["message"]
    assert full_front.refused(CHAT, n=11)["param"] == "n"
    assert full_front.refused(prompt=["x"] * 11)["param"] == "prompt"
    assert full_front.refused(prompt=["x"] * 6, n=2)["param"] == "n"
    assert 'queue_full"} 0.0' in full_front.http.get("/metrics").text


def test_once_somebody_waits_for_blocks_free_rows_are_none(endpoint: str) -> None:
    with running_front(endpoint, config=ServerConfig(max_queue=2)) as front:
        front.engine.allowance = 0
        fill = in_thread(lambda: front.post("/v1/completions", prompt="hi", n=5, max_tokens=3))
        wait_for(lambda: len(front.engine.running) == 5)
        front.engine.say(Stats(3, 2, 1.0, 0, 0, 0, 1, 1))
        wait_for(lambda: front.client.stats is not None and front.client.stats.waiting == 2)
        assert front.post("/v1/completions", prompt="hi").status_code == 429
        front.engine.allowance = None
        assert fill().status_code == 200


def test_a_full_queue_costs_no_tokenising(full_front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: pytest.fail("tokenised"))
    assert full_front.post("/v1/completions", prompt="x", n=2).status_code == 429
    assert full_front.post("/v1/completions", prompt=["x" * 1000, "y"]).status_code == 429


@pytest.mark.parametrize(
    "body, param",
    [
        ({"prompt": "x", "max_tokens": 200}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 10**400}, "max_tokens"),
        ({"prompt": [1] * 200}, "prompt"),
        ({"prompt": [[1], [2] * 150], "max_tokens": 60}, "max_tokens"),
        ({"prompt": ["x", "y" * 10**6]}, "prompt"),
        ({"messages": HI, "max_tokens": 200}, "max_tokens"),
        ({"messages": HI, "max_completion_tokens": 200}, "max_completion_tokens"),
    ],
)
def test_what_no_context_holds_is_no_matter_of_room(full_front: Front, body: dict[str, Any], param: str) -> None:
    """Who comes back later would hear it then."""
    error = full_front.refused(CHAT if "messages" in body else "/v1/completions", **body)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert "200" in error["message"]


def test_requests_whose_clients_left_count_as_long_as_the_engine_has_them(endpoint: str) -> None:
    """While an engine is stopped, calls that come and go would else pile up before it without a bound."""
    with running_front(endpoint, config=ServerConfig(max_queue=2)) as front:
        with front.engine.stalled():
            for come in (2, 4, 6, 8, 10):
                with front.asking("/v1/completions", prompt="hi", n=2):
                    wait_for(lambda come=come: front.client.open_requests == come)
            left = 'request_success_total{finished_reason="abort",model_name="tiny"} 10.0'
            wait_for(lambda: left in front.http.get("/metrics").text)
            assert front.client.open_requests == 10
            assert front.post("/v1/completions", prompt="hi").status_code == 429
        wait_for(lambda: front.client.open_requests == 0)
        assert front.post("/v1/completions", prompt="hi", n=10).status_code == 200


def test_of_two_calls_that_are_read_at_the_same_time_one_is_late(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find room when they come; there is none for the second when it has been tokenised."""
    reading, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: Any, **__: Any) -> list[int]:
        reading.release()
        assert go_on.wait(60)
        return [1, 2]

    with running_front(endpoint, config=ServerConfig(max_queue=2)) as front:
        monkeypatch.setattr(Tokenizer, "encode", slow)
        front.engine.script = lambda request: [1]
        front.engine.allowance = 0
        body = {"prompt": ["x" * 2700] * 8, "max_tokens": 2}  # so long that a thread reads it
        calls = [in_thread(lambda: front.http.post("/v1/completions", json=body)) for _ in range(2)]
        for _ in calls:
            assert reading.acquire(timeout=60)
        go_on.set()
        metrics = 'llmserve_request_refused_total{model_name="tiny",reason="queue_full"} 8.0'
        wait_for(lambda: metrics in front.http.get("/metrics").text)
        front.engine.allowance = None
        assert sorted(call().status_code for call in calls) == [200, 429]
        assert sent(front) == 8


def test_openais_client_comes_back_when_told(full_front: Front) -> None:
    ask: Any = {"model": "tiny", "messages": HI, "n": 2, "max_tokens": 3}
    with pytest.raises(openai.RateLimitError) as caught:
        full_front.openai.chat.completions.create(**ask)
    assert caught.value.code == "queue_full"
    assert 1000 <= int(caught.value.response.headers["retry-after-ms"]) <= 1500, "24 have just ended, and one is to"
    patient = full_front.openai.with_options(max_retries=1000)
    call = in_thread(lambda: patient.chat.completions.create(**ask))

    def refused() -> int:
        return int(full_front.http.get("/metrics").text.partition('queue_full"} ')[2].partition(".")[0])

    wait_for(lambda: refused() >= 4)
    full_front.engine.allowance = None
    assert len(call().choices) == 2


def test_those_whose_clients_leave_make_room(endpoint: str) -> None:
    with running_front(endpoint, config=ServerConfig(max_queue=0)) as front:
        front.engine.allowance = 0
        with front.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "n": 8}) as response:
            lines = response.iter_lines()
            next(lines)
            assert front.post("/v1/completions", prompt="hi").status_code == 429
        wait_for(lambda: front.client.open_requests == 0)
        front.engine.allowance = None
        assert front.post("/v1/completions", prompt="hi", n=8).status_code == 200
        assert front.refused(n=9)["param"] == "n"
