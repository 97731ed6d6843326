"""What cannot be served is refused: with the parameter's name, in one shape, and at no cost to anyone else."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest

from llmserve.server.protocol.chat import ChatBody
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.protocol.unsupported import ASKS_FOR_NOTHING, WITHOUT_EFFECT
from llmserve.tokenizer import Tokenizer

from .conftest import TOKENIZER, VOCAB, Front

ANYTHING_ELSE: dict[str, Any] = {
    "parallel_tool_calls": "yes", "spaces_between_special_tokens": 7, "skip_special_tokens": False,
    "include_reasoning": False, "add_generation_prompt": False,
}  # fmt: skip


@pytest.mark.parametrize(
    "path, param",
    [
        (path, param)
        for path, body in (("/v1/completions", CompletionBody), ("/v1/chat/completions", ChatBody))
        for param in sorted(ASKS_FOR_NOTHING.keys() - body.model_fields.keys())
    ],
)
def test_an_unsupported_parameter_is_named(front: Front, path: str, param: str) -> None:
    error = front.refused(path, **{param: ANYTHING_ELSE.get(param, 0.5)})
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert param in error["message"]


def test_asking_for_nothing_is_not_refused(front: Front) -> None:
    nothing = {name: values[0] if values else None for name, values in ASKS_FOR_NOTHING.items()}
    front.complete(**nothing, **dict.fromkeys(WITHOUT_EFFECT, "x"))
    front.complete(**dict.fromkeys([*ASKS_FOR_NOTHING, "n", "best_of", "seed", "top_p", "stop", "stop_token_ids"]))
    front.complete(best_of=2, n=2, temperature=0, top_k=-1, stream=False)


@pytest.mark.parametrize(
    "body, param",
    [
        ({"nonsense": 1}, "nonsense"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 128, "prompt": ["x"] * 9}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"seed": "x"}, "seed"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x", "y" * 1001]}, "stop"),
        ({"stop_token_ids": "x"}, "stop_token_ids"),
        ({"stop_token_ids": [VOCAB]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"nonsense": 1}}, "stream_options.nonsense"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["ok", ""]}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [VOCAB]}, "prompt"),
        ({"prompt": [[-1]]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": ["x"] * 1025}, "prompt"),
        ({"prompt": [1] * 200}, "prompt"),
        ({"prompt": [[1], ["x"] * (2**20 + 1)]}, "prompt"),
        ({"stop_token_ids": [1] * (2**20 + 1)}, "stop_token_ids"),
        ({"messages": []}, "messages"),
        ({"x" * 10_000: 1}, "x" * 100),
    ],
)
def test_a_bad_value_is_named(front: Front, body: dict[str, Any], param: str) -> None:
    error = front.refused(**body)
    assert error["param"] == param
    assert len(error["message"]) <= 1000
    assert not front.engine.received, "the engine hears nothing of it"


def test_a_missing_prompt(front: Front) -> None:
    response = front.post("/v1/completions", model="tiny")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


def test_a_context_that_is_too_small_has_both_numbers(front: Front) -> None:
    error = front.refused(prompt=[1] * 150, max_tokens=100)
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    assert all(number in error["message"] for number in ("200", "150", "100", "50"))
    error = front.refused(prompt=[1] * 250)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert all(number in error["message"] for number in ("200", "250"))
    error = front.refused(prompt=[VOCAB] * 250)
    assert error["code"] == "context_length_exceeded", "the length is looked at first"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_text_that_cannot_fit_is_not_tokenised(front: Front, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: pytest.fail("tokenised"))
    text = "x" * 1_000_000
    body: dict[str, Any] = {"prompt": text} if "chat" not in path else {"messages": [{"role": "user", "content": text}]}
    error = front.refused(path, **body)
    assert (error["param"], error["code"]) == (next(iter(body)), "context_length_exceeded")
    assert "200 tokens" in error["message"]
    assert "characters" in error["message"]


def test_many_short_texts_are_tokenised_beside_other_requests(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    text, threads, loops = "x" * 150, set[int](), list[int]()
    front.loop.call_soon_threadsafe(lambda: loops.append(threading.get_ident()))
    encode = Tokenizer.encode

    def watched(*args: Any, **options: Any) -> list[int]:
        if args[1] == text:  # and not the fake engine's
            threads.add(threading.get_ident())
        return encode(*args, **options)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    front.complete(prompt=[text] * 150, max_tokens=1)
    assert threads, "or the test watches nothing"
    assert loops
    assert threads.isdisjoint(loops), "none on the loop's own thread"


class PanicException(BaseException):
    """Of the same name and base as what Rust's libraries raise."""


def test_a_tokenizer_that_panics_is_the_texts_fault(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend:
        def encode(self, *_: object, **__: object) -> None:
            raise PanicException("index out of bounds")

    monkeypatch.setattr(TOKENIZER, "_backend", Backend())
    error = front.refused(prompt="x" * 30)
    assert error["param"] == "prompt"
    assert "index" not in error["message"]


@pytest.mark.parametrize(
    "content, headers",
    [
        (b"", {"content-type": "application/json"}),
        (b"{", {"content-type": "application/json"}),
        (b"[]", {"content-type": "application/json"}),
        (b"\xff\xfe", {"content-type": "application/json"}),
        (b'"text"', {"content-type": "application/json"}),
        (b'{"prompt": "x"}', {"content-type": "text/plain"}),
        (b'{"prompt": "x"}', {}),
        (b"[" * 200_000, {"content-type": "application/json"}),
        (b'{"prompt": "x", "seed": ' + b"9" * 10_000 + b"}", {"content-type": "application/json"}),
    ],
)
def test_a_body_that_is_not_a_json_object(front: Front, content: bytes, headers: dict[str, str]) -> None:
    response = front.http.post("/v1/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.content) < 2000


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "content, headers, said",
    [
        (b"", JSON, "is empty"),
        (b"null", JSON, "is empty"),
        (b"[]", JSON, "not a list"),
        (b'"text"', JSON, "not 'text'"),
        (b"7", JSON, "not 7"),
        (b'{"prompt": "x"}', {}, "header Content-Type"),
        (b'{"prompt": "x"}', {"content-type": "text/plain"}, "header Content-Type"),
    ],
)
def test_what_keeps_a_body_from_being_an_object_is_told(
    front: Front, content: bytes, headers: dict[str, str], said: str
) -> None:
    error = front.http.post("/v1/completions", content=content, headers=headers).json()["error"]
    assert said in error["message"]
    assert error["param"] is None


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"prompt": "x", "seed": ' + b"9" * 10_000 + b"}", "too many digits"),
        (b'{"prompt": "\xff"}', "byte 12 is not UTF-8"),
        (b'{"prompt": }', "at character"),
    ],
)
def test_json_that_cannot_be_read_has_a_reason(front: Front, content: bytes, reason: str) -> None:
    response = front.http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    message = response.json()["error"]["message"]
    assert message.startswith("The body is not valid JSON")
    assert reason in message


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/version"])
def test_a_head_without_a_body(front: Front, path: str) -> None:
    response = front.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["/v1/completions/", "/v1/chat/completions/", "/health/"])
def test_a_slash_too_many_is_not_redirected(front: Front, path: str) -> None:
    response = front.http.post(path, json={})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_an_unknown_model_path_and_method(front: Front) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        front.openai.completions.create(model="gpt-9", prompt="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert front.http.get("/v1/models/gpt-9").json()["error"]["code"] == "model_not_found"
    assert front.http.get("/v1/nothing").status_code == 404
    assert front.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    wrong = front.http.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(front: Front, announced: bool) -> None:
    body = b'{"prompt": "' + b"x" * 33_000_000 + b'"}'
    pieces = (body[i : i + 2**20] for i in range(0, len(body), 2**20))
    response = front.http.post(
        "/v1/completions", content=body if announced else pieces, headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_every_response_has_an_id(front: Front) -> None:
    for path in ("/health", "/v1/nothing", "/v1/models"):
        assert front.http.get(path, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        assert len(front.http.get(path).headers["x-request-id"]) == 32
        assert len(front.http.get(path, headers={"x-request-id": "two words"}).headers["x-request-id"]) == 32


@pytest.mark.parametrize("error", [RuntimeError, PanicException])
def test_our_own_mistakes_say_nothing_of_the_inside(
    front: Front, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error("/secret/path")

    monkeypatch.setattr("llmserve.server.generation.derived_seed", fail)
    response = front.post("/v1/completions", prompt="x")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"] in caplog.text
    assert "/secret/path" in caplog.text
