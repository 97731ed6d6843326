"""What a call may say of its order, its time and its cache, and what it gets when its time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmserve.engine.messages import Abort, Events, Submit
from llmserve.request import Finish, Request, TokenEvent
from llmserve.server.generation import OVERTIME_S

from .chunks import put_chat_together, put_together, stream
from .conftest import TOKENIZER, TOKENS, Front, running_front
from .fake_engine import wait_for
from .test_lifecycle import in_thread
from .test_prompt_logprobs import expected

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
SIX_TOKENS = TOKENIZER.decode(TOKENS[:6])


def submitted(front: Front) -> list[Request]:
    return [message.request for message in front.engine.received if isinstance(message, Submit)]


@pytest.mark.parametrize(
    "body, path",
    [({"prompt": ["hi", "you"], "n": 2}, "/v1/completions"), ({"messages": HI, "n": 3}, CHAT)],
)
def test_all_choices_of_a_call_share_them(front: Front, body: dict[str, Any], path: str) -> None:
    asked = {"priority": -(2**63), "timeout": 1000, "cache_salt": "明 \n" * 64, "max_tokens": 1}
    assert front.post(path, **body, **asked).status_code == 200
    requests = submitted(front)
    assert len(requests) == len(body.get("prompt", [1])) * body["n"]
    assert {(r.priority, r.cache_salt) for r in requests} == {(-(2**63), "明 \n" * 64)}
    [left] = {r.timeout for r in requests}
    assert 900 < left <= 1000


@pytest.mark.parametrize("nothing", [{}, {"priority": 0}, dict.fromkeys(("priority", "timeout", "cache_salt"))])
def test_without_them_a_request_is_like_any_other(front: Front, nothing: dict[str, Any]) -> None:
    front.complete(max_tokens=1, **nothing)
    [request] = submitted(front)
    assert (request.priority, request.timeout, request.cache_salt) == (0, None, "")


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
@pytest.mark.parametrize(
    "param, value",
    [
        *(("priority", value) for value in (2**63, -(2**63) - 1, 10**400, 0.5, "0", True)),
        *(("timeout", value) for value in (0, -1, float("inf"), float("nan"), 10**400, "5", True)),
        *(("cache_salt", value) for value in ("", "x" * 257, 5, "\ud800")),
    ],
)
def test_a_bad_value_is_named(front: Front, path: str, param: str, value: Any) -> None:
    error = front.refused(path, **{param: value})
    assert error["param"] == param
    assert len(error["message"]) <= 1000
    assert not front.engine.received, "the engine hears nothing of it"


@pytest.fixture
def slow_front(endpoint: str) -> Iterator[Front]:
    """Its engine computes nothing until a test lets it."""
    with running_front(endpoint) as front:
        front.engine.allowance = 0
        yield front


def time_is_up(front: Front, choices: int, after: int = 6) -> None:
    """When all have come and each has had so many steps, tokens or pieces of its prompt, the engine ends them."""
    engine = front.engine
    wait_for(lambda: len(engine.running) == choices)
    engine.allowance = after
    wait_for(lambda: engine.allowance == 0)
    ended = [TokenEvent(id, None, Finish.TIMEOUT) for id in engine.running]
    engine.running.clear()
    engine.say(Events(ended))


def test_what_there_is_when_time_is_up_is_the_answer(slow_front: Front) -> None:
    call = in_thread(lambda: slow_front.post("/v1/completions", prompt="hi", seed=0, timeout=9, max_tokens=90, n=2))
    time_is_up(slow_front, choices=2)
    answer = call().json()
    assert call().status_code == 200
    first, second = answer["choices"]
    assert first["finish_reason"] == second["finish_reason"] == "timeout"
    assert first["stop_reason"] is None
    assert first["text"] == SIX_TOKENS
    assert answer["usage"]["completion_tokens"] == 12
    metrics = slow_front.http.get("/metrics").text
    assert 'llmserve_request_success_total{finished_reason="timeout",model_name="tiny"} 2.0' in metrics
    assert 'llmserve_request_success_total{finished_reason="error",model_name="tiny"} 0.0' in metrics


def test_a_stream_ends_with_it(slow_front: Front) -> None:
    chunks = in_thread(lambda: stream(slow_front, "/v1/completions", prompt="hi", seed=0, timeout=9, max_tokens=90))
    time_is_up(slow_front, choices=1)
    [choice] = put_together(chunks(), 1)
    assert (choice["finish_reason"], choice["text"]) == ("timeout", SIX_TOKENS)
    chunks = in_thread(lambda: stream(slow_front, CHAT, messages=HI, seed=0, timeout=9))
    time_is_up(slow_front, choices=1)
    [choice] = put_chat_together(chunks(), 1)
    assert (choice["finish_reason"], choice["message"]["content"]) == ("timeout", SIX_TOKENS)


def test_openais_client_reads_it(slow_front: Front) -> None:
    ask: Any = {"model": "tiny", "messages": HI, "seed": 0, "extra_body": {"timeout": 9, "priority": 1}}
    call = in_thread(lambda: slow_front.openai.chat.completions.create(**ask))
    time_is_up(slow_front, choices=1)
    [choice] = call().choices
    assert (choice.finish_reason, choice.message.content) == ("timeout", SIX_TOKENS)


def test_time_that_is_up_before_the_first_token(slow_front: Front) -> None:
    call = in_thread(lambda: slow_front.post(CHAT, messages=HI, timeout=9))
    time_is_up(slow_front, choices=1, after=0)
    [choice] = call().json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("timeout", "")
    assert call().json()["usage"]["completion_tokens"] == 0


def test_of_a_prompt_that_was_not_done_the_rest_is_not_known(slow_front: Front) -> None:
    prompt = list(range(1, 9))
    ask = {"prompt": prompt, "prompt_logprobs": 2, "logprobs": 1, "echo": True, "timeout": 9}
    call = in_thread(lambda: slow_front.post("/v1/completions", **ask))
    time_is_up(slow_front, choices=1, after=1)
    assert call().status_code == 200
    [choice] = call().json()["choices"]
    assert choice["finish_reason"] == "timeout"
    told = expected(prompt, 2)
    assert choice["prompt_logprobs"] == [*told[:4], None, None, None, None]
    assert len(choice["logprobs"]["tokens"]) == 8
    assert [logprob is None for logprob in choice["logprobs"]["token_logprobs"]] == [True, *[False] * 3, *[True] * 4]


def test_an_engine_that_stands_still_is_not_waited_for(slow_front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front ends what the engine should have ended; there is what there was."""
    engine, loop = slow_front.engine, slow_front.loop
    timers, call_later = [], loop.call_later

    def later(delay: float, callback: Callable[..., Any], *arguments: Any) -> Any:
        if delay > 900:  # of the calls, and of nothing else
            timers.append((delay, callback))
        return call_later(delay, callback, *arguments)

    monkeypatch.setattr(loop, "call_later", later)
    body = {"prompt": "hi", "seed": 0, "timeout": 1000, "max_tokens": 90, "n": 2}
    call = in_thread(lambda: slow_front.post("/v1/completions", **body))
    chunks = in_thread(lambda: stream(slow_front, "/v1/completions", **body))
    wait_for(lambda: len(engine.running) == 4)
    engine.allowance = 6
    told = 'generation_tokens_total{model_name="tiny"} 24.0'
    wait_for(lambda: told in slow_front.http.get("/metrics").text)
    with engine.stalled():
        for delay, callback in timers:
            assert 900 < delay - OVERTIME_S <= 1000
            loop.call_soon_threadsafe(callback)
        for choices in (call().json()["choices"], put_together(chunks(), 2)):
            assert [choice["finish_reason"] for choice in choices] == ["timeout", "timeout"]
            assert choices[0]["text"] == SIX_TOKENS
        assert slow_front.client.open_requests == 4, "the engine has not let go of them"
    wait_for(lambda: slow_front.client.open_requests == 0)
    assert len([message for message in engine.received if isinstance(message, Abort)]) == 4
