"""Parameters of how tokens are chosen: what the engine hears of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.config import GenerationDefaults
from llmserve.engine.messages import Submit
from llmserve.request import Request
from llmserve.server.serving import MAX_CUT_CHARS

from .chunks import stream
from .conftest import END, TOKENIZER, VOCAB, Front, manifest, running_front

PATHS = {"/v1/completions": {"prompt": "hi"}, "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]}}


def heard(front: Front) -> Request:
    submit: Submit = front.engine.seen(Submit)
    return submit.request


@pytest.mark.parametrize("path", PATHS)
def test_the_engine_hears_of_each(front: Front, path: str) -> None:
    given = {"min_p": 0.1, "presence_penalty": -1, "frequency_penalty": 0.5, "repetition_penalty": 1.2}
    more = {"logit_bias": {"3": 5, "7": -0.5}, "allowed_token_ids": [5, 3, 3], "bad_words": ["el"]}
    assert front.post(path, **PATHS[path], **given, **more).status_code == 200
    sampling = heard(front).sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert sampling.logit_bias == ((3, 5.0), (7, -0.5))
    assert sampling.allowed_token_ids == {3, 5}
    assert sampling.bad_words == tuple(tuple(ids(word)) for word in ("el", " el"))


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_bad_words_are_banned_with_a_space_before_them_and_without(front: Front) -> None:
    front.complete(bad_words=["  world", "#"])
    assert heard(front).sampling.bad_words == tuple(tuple(ids(w)) for w in ("world", " world", "#", " #"))


def test_nothing_is_asked_for_by_what_asks_for_nothing(front: Front) -> None:
    front.complete(
        min_p=0, presence_penalty=0, frequency_penalty=0, repetition_penalty=1, logit_bias={}, bad_words=[],
        allowed_token_ids=None, include_stop_str_in_output=False, truncate_prompt_tokens=None,
    )  # fmt: skip
    assert not heard(front).sampling.edits_logits


def test_a_models_own_wishes_count_where_a_request_does_not_say(endpoint: str) -> None:
    wishes = GenerationDefaults(eos_token_ids=(END,), min_p=0.05, repetition_penalty=1.1)
    with running_front(endpoint, manifest=manifest(generation=wishes)) as front:
        front.complete()
        front.complete(min_p=0, repetition_penalty=1)
        told = [m.request.sampling for m in front.engine.received if isinstance(m, Submit)]
    assert [(s.min_p, s.repetition_penalty) for s in told] == [(0.05, 1.1), (0.0, 1.0)]


@pytest.mark.parametrize(
    "body, param",
    [
        ({"min_p": 1.1}, "min_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": "much"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": {"1": None}}, "logit_bias"),
        ({"logit_bias": {str(VOCAB): 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(10_001)}}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids"),
        ({"allowed_token_ids": ["1"]}, "allowed_token_ids"),
        ({"bad_words": "x"}, "bad_words"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"bad_words": ["x" * 201]}, "bad_words"),
        ({"bad_words": ["\ud800"]}, "bad_words"),
        ({"bad_words": ["x"] * 257}, "bad_words"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"n": 60, "allowed_token_ids": [1] * 9000}, "allowed_token_ids"),
        ({"n": 60, "stop_token_ids": [1] * 9000}, "stop_token_ids"),
        ({"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_value_is_named(front: Front, body: dict[str, Any], param: str) -> None:
    error = front.refused(**body)
    assert error["param"] == param
    assert not front.engine.received


@pytest.mark.parametrize("path", PATHS)
def test_of_a_prompt_the_last_tokens_are_kept(front: Front, path: str) -> None:
    front.post(path, **PATHS[path])
    whole = heard(front).prompt
    for n in (1, len(whole), len(whole) + 9):
        front.engine.received.clear()
        body = front.post(path, **PATHS[path], truncate_prompt_tokens=n).json()
        assert heard(front).prompt == whole[-n:]
        assert body["usage"]["prompt_tokens"] == min(n, len(whole))


def test_a_prompt_too_long_for_the_context_can_be_cut(front: Front) -> None:
    error = front.refused(prompt=[1] * 500)
    assert error["code"] == "context_length_exceeded"
    assert "prompt has 500 tokens;" in error["message"]
    front.complete(prompt=[1] * 500, truncate_prompt_tokens=100)
    assert len(heard(front).prompt) == 100


@pytest.mark.parametrize("path", PATHS)
def test_a_text_too_long_for_the_context_can_be_cut(front: Front, path: str) -> None:
    def body(text: str) -> dict[str, Any]:
        return {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}

    text = "Hello world " * 10_000 + "and the end."
    assert front.refused(path, **body(text))["code"] == "context_length_exceeded"
    assert front.post(path, **body(text), truncate_prompt_tokens=50).status_code == 200
    long = heard(front).prompt
    front.engine.received.clear()
    front.post(path, **body(text[-120:]), truncate_prompt_tokens=50)
    assert long == heard(front).prompt
    assert "characters" in front.refused(path, **body("x" * (MAX_CUT_CHARS + 1)), truncate_prompt_tokens=50)["message"]


@pytest.mark.parametrize("shown", [True, False])
def test_a_stop_string_is_in_the_text_where_that_is_wanted(front: Front, shown: bool) -> None:
    body = {"prompt": "hi", "seed": 0, "max_tokens": 40, "stop": ["world", "rld."], "include_stop_str_in_output": shown}
    whole = front.complete(**body)["choices"][0]
    assert whole["text"] == "Hello 明月🌟 world"[: None if shown else -5]
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "world")
    parts = [chunk["choices"][0]["text"] for chunk in stream(front, "/v1/completions", **body) if chunk["choices"]]
    assert "".join(parts) == whole["text"]


@pytest.mark.parametrize("shown", [True, False])
def test_a_stop_token_is_in_the_text_where_that_is_wanted_and_it_has_some(front: Front, shown: bool) -> None:
    stop = ids("o")
    told = front.complete(stop_token_ids=stop, include_stop_str_in_output=shown)["choices"][0]
    assert told["text"] == ("Hello" if shown else "Hell")
    assert (told["finish_reason"], told["stop_reason"]) == ("stop", stop[0])
    front.engine.script = lambda request: [*ids("Hell"), END]
    assert front.complete(include_stop_str_in_output=shown)["choices"][0]["text"] == "Hell"
