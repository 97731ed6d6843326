"""One request against servers of every kind: what is counted, what is timed, what is called a failure."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from llmserve.bench.client import Client, first_model
from llmserve.bench.load import Asked
from llmserve.bench.sample import Sample
from llmserve.errors import LlmserveError

USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]})


class Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def ask(answer: Any, **extra: Any) -> Sample:
    """`answer`: a response, an exception, or what makes one of them of a request. The clock counts looks at it."""

    async def run() -> Sample:
        def handle(request: httpx.Request) -> httpx.Response:
            made = answer(request) if callable(answer) else answer
            if isinstance(made, Exception):
                raise made
            return made

        async with httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://x") as http:
            ticks = itertools.count()
            return await Client(http, "m", extra, lambda: float(next(ticks))).complete(Asked((1, 2, 3), 5, 0.0))

    return asyncio.run(run())


def stream(*pieces: bytes) -> httpx.Response:
    return httpx.Response(200, stream=Pieces(*pieces))


def test_the_body_asks_for_usage_and_a_null_takes_a_parameter_out() -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return stream(event(USAGE), DONE)

    ask(answer, ignore_eos=None, top_p=0.5)
    assert seen == [
        {"model": "m", "prompt": [1, 2, 3], "max_tokens": 5, "stream": True,
         "stream_options": {"include_usage": True}, "top_p": 0.5}
    ]  # fmt: skip


def test_times_are_those_of_the_tokens() -> None:
    pieces = [chunk("a"), chunk("b"), chunk("c"), chunk("d"), chunk("e"), chunk("", "length"), event(USAGE), DONE]
    sample = ask(stream(*pieces))
    assert sample.error is None
    assert (sample.sent, sample.token_times, sample.ended) == (0, [1, 2, 3, 4, 5], 9)
    assert (sample.ttft, sample.tpot, sample.itl, sample.e2e) == (1, 1, [1, 1, 1, 1], 9)
    assert (sample.input_tokens, sample.output_tokens) == (3, 5)


def test_several_tokens_in_a_chunk_are_counted_by_their_ids() -> None:
    pieces = [chunk("", token_ids=[7]), chunk("abc", token_ids=[7, 8, 9]) + chunk("d", "length", token_ids=[10])]
    sample = ask(stream(*pieces, event(USAGE) + DONE))
    assert sample.token_times == [1, 2, 2, 2, 2]
    assert sample.itl == [1, 0, 0, 0]
    assert sample.tpot == 1 / 4


def test_without_ids_tokens_are_counted_by_usage() -> None:
    sample = ask(stream(chunk("ab"), chunk("cde", "length"), event(USAGE), DONE))
    assert sample.output_tokens == 5
    assert sample.tpot == 1 / 4
    assert sample.itl == [1]


def test_cached_tokens_are_noted_where_the_server_says_them() -> None:
    usage = {"choices": [], "usage": {**USAGE["usage"], "prompt_tokens_details": {"cached_tokens": 2}}}
    assert ask(stream(event(usage), DONE)).cached_tokens == 2
    assert ask(stream(event(USAGE), DONE)).cached_tokens == 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(400, json={"error": {"message": "too long."}}), "HTTP 400: too long."),
        (httpx.Response(422, json={"detail": "no"}), 'HTTP 422: {"detail":"no"}'),
        (httpx.Response(500, json={"error": "broken"}), "HTTP 500: broken"),
        (httpx.Response(502, text="<b>Bad\n gateway</b>"), "HTTP 502: <b>Bad gateway</b>"),
        (httpx.Response(503), "HTTP 503: without a message."),
        (httpx.ConnectError("refused"), "ConnectError: refused"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (stream(chunk("a")), "the stream ended before its [DONE]."),
        (stream(chunk("a"), DONE), "the stream has no usage, so its tokens cannot be counted."),
        (stream(chunk("a"), event({"error": {"message": "dead"}}), DONE), "the stream ended in an error: dead"),
        (stream(b"data: oops\n\n"), "the server sent 'oops' where a JSON object belongs."),
        (stream(b'data: {"choices": [1]}\n\n'), "the server sent '{\"choices\": [1]}' where a completion belongs."),
    ],
)
def test_every_failure_is_a_sample_that_says_why(answer: Any, error: str) -> None:
    assert ask(answer).error == error


def models(answer: httpx.Response) -> str:
    async def run() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer), base_url="http://x") as http:
            return await first_model(http)

    return asyncio.run(run())


def test_the_model_is_the_first_that_is_listed() -> None:
    assert models(httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]})) == "a"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(200, json={"data": []}), "the list has no model"),
        (httpx.Response(401, json={"error": {"message": "no key"}}), "HTTP 401: no key"),
        (httpx.Response(200, text="hello"), "the server sent 'hello' where a JSON object belongs."),
    ],
)
def test_a_server_that_does_not_say_its_model_is_one_sentence(answer: httpx.Response, reason: str) -> None:
    with pytest.raises(LlmserveError) as caught:
        models(answer)
    assert str(caught.value) == f"http://x/v1/models does not say what is served ({reason}); give --model."


def test_progress_hears_of_every_token_when_it_comes() -> None:
    heard: list[int] = []

    async def run() -> None:
        answer = stream(chunk("", token_ids=[7]), chunk("a", token_ids=[8, 9]) + chunk("b", token_ids=[1]), DONE)
        transport = httpx.MockTransport(lambda _: answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            await Client(http, "m", {}, lambda: 0.0, heard.append).complete(Asked((1,), 4, 0.0))

    asyncio.run(run())
    assert heard == [1, 3, 0]


@pytest.mark.parametrize("finish", ["timeout", "length", "stop"])
def test_an_answer_whose_time_was_up_is_told_apart(finish: str) -> None:
    sample = ask(stream(chunk("a"), chunk("", finish), event(USAGE), DONE))
    assert sample.error is None
    assert sample.timed_out == (finish == "timeout") == sample.as_json()["timed_out"]
