"""Loading, leaving clients, draining and death: everyone who waits hears how it ends, once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from llmserve.engine.messages import Abort, Draining, Events, Failed, Loading, Stats, Stopped, Submit
from llmserve.request import Finish, TokenEvent

from .conftest import TEXT, Front, running_front
from .fake_engine import READY, wait_for

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def own_front(endpoint: str) -> Iterator[Front]:
    """A front that a test may break."""
    with running_front(endpoint) as front:
        yield front


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Runs `work` in the background; calling what this returns waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(60)
        assert results, "no answer in time"
        return results[0]

    return result


def test_while_the_engine_loads(endpoint: str) -> None:
    with running_front(endpoint, ready=False) as front:
        health = front.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        front.engine.say(Loading("weights", 25, 100))
        wait_for(
            lambda: front.http.get("/health").json() == {"status": "loading", "phase": "weights", "progress": 0.25}
        )
        assert int(front.http.get("/health").headers["retry-after"]) > 0
        for response in (
            front.post("/v1/completions", prompt="hi"),
            front.post(CHAT, messages=HI, stream=True),
            front.http.get("/v1/models"),
        ):
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "not_ready"
        front.engine.say(READY)
        wait_for(lambda: front.http.get("/health").status_code == 200)
        assert front.http.get("/health").json() == {"status": "ok"}
        assert front.complete(max_tokens=1)


def test_a_client_that_leaves_a_stream(own_front: Front) -> None:
    own_front.engine.allowance = 5
    with own_front.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "n": 2}) as response:
        next(response.iter_lines())
    received = own_front.engine.received
    wait_for(lambda: len([m for m in received if isinstance(m, Abort)]) == 2)
    submitted = {m.request.id for m in received if isinstance(m, Submit)}
    assert {m.request_id for m in received if isinstance(m, Abort)} == submitted
    wait_for(lambda: not own_front.engine.running)
    wait_for(lambda: 'request_success_total{finished_reason="abort",model_name="tiny"} 2.0' in metrics(own_front))


def test_a_client_that_leaves_without_an_answer(own_front: Front) -> None:
    own_front.engine.allowance = 5
    with own_front.asking("/v1/completions", prompt="hi", max_tokens=100):
        own_front.engine.seen(Submit)
    own_front.engine.seen(Abort)
    wait_for(lambda: not own_front.engine.running)


def test_a_slow_reader_loses_nothing_and_holds_nobody_up(own_front: Front) -> None:
    with own_front.http.stream(
        "POST", "/v1/completions", json={"prompt": "hi", "seed": 0, "max_tokens": 190, "stream": True}
    ) as response:
        own_front.http.get("/health")
        with httpx.Client(base_url=own_front.url) as other:
            for _ in range(3):
                assert other.post("/v1/completions", json={"prompt": "x"}).status_code == 200
        lines = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    text = "".join(line["choices"][0]["text"] for line in lines)
    assert text.startswith(TEXT * 3)


@pytest.mark.parametrize("last_word", [None, Failed("Out of memory at step 7.")])
def test_an_engine_that_dies(own_front: Front, last_word: Failed | None) -> None:
    own_front.engine.allowance = 5
    sentence = "engine stopped unexpectedly" if last_word is None else last_word.error

    def read_stream() -> list[str]:
        with httpx.Client(base_url=own_front.url, timeout=60) as client:
            body = {"messages": HI, "stream": True}
            with client.stream("POST", CHAT, json=body) as response:
                return [line for line in response.iter_lines() if line]

    def use_openai() -> openai.APIError:
        with pytest.raises(openai.APIError) as caught:
            list(own_front.openai.completions.create(model="tiny", prompt="x", max_tokens=90, stream=True))
        return caught.value

    lines = in_thread(read_stream)
    error = in_thread(use_openai)
    whole = in_thread(lambda: own_front.post("/v1/completions", prompt="hi", max_tokens=100))
    wait_for(lambda: len(own_front.engine.running) == 3)
    if last_word is not None:
        own_front.engine.say(last_word)
    else:
        own_front.engine.disconnect()
    assert lines()[-1] == "data: [DONE]"
    problem = json.loads(lines()[-2].removeprefix("data: "))["error"]
    assert sentence in problem["message"]
    assert sentence in error().message
    assert whole().status_code == 500
    assert sentence in whole().json()["error"]["message"]
    health = own_front.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "dead")
    refused = own_front.post("/v1/completions", prompt="x")
    assert refused.status_code == 503
    assert sentence in refused.json()["error"]["message"]
    assert own_front.client.ended.is_set()


def test_an_error_of_one_request_costs_no_other_anything(own_front: Front) -> None:
    own_front.engine.allowance = 3
    bad = in_thread(lambda: own_front.post("/v1/completions", prompt="hi", max_tokens=50))
    submit = own_front.engine.seen(Submit)
    good = in_thread(lambda: own_front.complete(max_tokens=50))
    wait_for(lambda: len(own_front.engine.running) == 2)
    del own_front.engine.running[submit.request.id]
    own_front.engine.say(Events([TokenEvent(submit.request.id, None, Finish.ERROR, error="Not a number at layer 3.")]))
    assert bad().status_code == 500
    assert bad().json()["error"]["message"] == "Not a number at layer 3."
    own_front.engine.allowance = None
    assert good()["usage"]["completion_tokens"] == 50


def test_one_choice_that_fails_ends_the_others(own_front: Front) -> None:
    own_front.engine.allowance = 3
    call = in_thread(lambda: own_front.post("/v1/completions", prompt="hi", max_tokens=50, n=3))
    submit = own_front.engine.seen(Submit)
    wait_for(lambda: len(own_front.engine.running) == 3)
    own_front.engine.say(Events([TokenEvent(submit.request.id, None, Finish.ERROR, error="Broken.")]))
    assert call().status_code == 500
    wait_for(lambda: len([m for m in own_front.engine.received if isinstance(m, Abort)]) == 2)


def test_draining_finishes_what_runs_and_refuses_what_comes(own_front: Front) -> None:
    own_front.engine.allowance = 5
    running = in_thread(lambda: own_front.complete(max_tokens=20))
    own_front.engine.seen(Submit)
    own_front.loop.call_soon_threadsafe(own_front.client.drain, 10.0)
    wait_for(lambda: own_front.http.get("/health").json() == {"status": "draining"})
    refused = own_front.post("/v1/completions", prompt="x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert refused.headers["retry-after"]
    own_front.engine.allowance = None
    assert running()["usage"]["completion_tokens"] == 20
    wait_for(own_front.client.ended.is_set)
    assert isinstance(own_front.client.state, Stopped)


def test_what_does_not_finish_in_time_is_told_so(own_front: Front) -> None:
    own_front.engine.allowance = 5
    running = in_thread(lambda: own_front.post("/v1/completions", prompt="hi", max_tokens=50))
    own_front.engine.seen(Submit)
    own_front.loop.call_soon_threadsafe(own_front.client.drain, 0.05)
    assert running().status_code == 500
    assert "stopped before this answer was complete" in running().json()["error"]["message"]


def test_an_engine_that_was_told_to_stop_by_somebody_else(own_front: Front) -> None:
    own_front.engine.say(Draining())
    wait_for(lambda: own_front.http.get("/health").json() == {"status": "draining"})
    own_front.engine.say(Stopped())
    wait_for(lambda: own_front.http.get("/health").json() == {"status": "stopped"})


def metrics(front: Front) -> str:
    return front.http.get("/metrics").text


def test_metrics_have_vllms_names(own_front: Front) -> None:
    own_front.complete(n=2, max_tokens=8)
    wait_for(lambda: "llmserve_num_requests_running" in metrics(own_front))
    text = metrics(own_front)
    for line in (
        'llmserve_prompt_tokens_total{model_name="tiny"} 4.0',
        'llmserve_generation_tokens_total{model_name="tiny"} 16.0',
        'llmserve_request_success_total{finished_reason="length",model_name="tiny"} 2.0',
        'llmserve_time_to_first_token_seconds_count{model_name="tiny"} 2.0',
        'llmserve_inter_token_latency_seconds_count{model_name="tiny"} 14.0',
        'llmserve_e2e_request_latency_seconds_count{model_name="tiny"} 2.0',
        'llmserve_kv_cache_usage_perc{model_name="tiny"} 0.5',
        'llmserve_num_requests_waiting{model_name="tiny"} 0.0',
        'llmserve_num_preemptions_total{model_name="tiny"} 1.0',
        'llmserve_prefix_cache_queries_total{model_name="tiny"} 20.0',
        'llmserve_prefix_cache_hits_total{model_name="tiny"} 5.0',
        'llmserve_prefix_cache_hit_rate{model_name="tiny"} 0.25',
    ):
        assert line in text


def test_before_the_first_query_there_is_no_hit_rate(own_front: Front) -> None:
    own_front.engine.say(Stats(0, 0, 0.0, 0, 0, 0, 0, 0))
    wait_for(lambda: "llmserve_prefix_cache_queries_total" in metrics(own_front))
    assert "prefix_cache_hit_rate" not in metrics(own_front)
    own_front.engine.say(Stats(0, 0, 0.0, 0, 8, 0, 0, 0))
    wait_for(lambda: 'llmserve_prefix_cache_hit_rate{model_name="tiny"} 0.0' in metrics(own_front))


def test_models_and_version(front: Front) -> None:
    [model] = front.openai.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "llmserve")
    assert front.openai.models.retrieve("tiny").id == "tiny"
    assert front.http.get("/v1/models").json()["data"][0]["max_model_len"] == 200
    assert front.http.get("/version").json().keys() == {"version"}
    assert front.http.get("/openapi.json").status_code == 200
