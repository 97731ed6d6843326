"""What takes long is done in a thread, so that others get their tokens meanwhile; short answers are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmserve.server import embeddings, json_body
from llmserve.server.openai_format import CompletionFormat
from llmserve.tokenizer.prompts.template import TemplatePrompt

from .chunks import put_together, stream
from .conftest import Front
from .fake_engine import wait_for


def loops_thread(front: Front) -> int:
    told: list[int] = []
    front.loop.call_soon_threadsafe(lambda: told.append(threading.get_ident()))
    return wait_for(lambda: told)[0]


def watched(function: Callable[..., Any], threads: list[int]) -> Callable[..., Any]:
    def watching(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return function(*args)

    return watching


@pytest.mark.parametrize("n", [1, 120])
def test_echoes_are_told_of_in_a_thread_where_they_are_long(
    front: Front, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    for name in ("opening", "body"):
        monkeypatch.setattr(CompletionFormat, name, watched(getattr(CompletionFormat, name), threads))
    body: dict[str, Any] = {"prompt": [5] * 40, "n": n, "max_tokens": 1, "seed": 0, "echo": True}
    whole = front.complete(**body)
    assert put_together(stream(front, "/v1/completions", **body), n) == whole["choices"]
    assert [thread != loops_thread(front) for thread in threads] == [n > 1] * 2


@pytest.mark.parametrize("many", [False, True])
def test_vectors_are_written_in_a_thread_where_there_are_many(
    front: Front, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(embeddings, "_in_floats", watched(embeddings._in_floats, threads))
    monkeypatch.setattr(embeddings, "MANY_BYTES", 32 if many else 64)
    told = front.post("/v1/embeddings", input=["hi", "you"]).json()
    assert [len(entry["embedding"]) for entry in told["data"]] == [8, 8]
    assert [thread != loops_thread(front) for thread in threads] == [many] * 2


@pytest.mark.parametrize("long", [False, True])
def test_tools_are_told_of_in_a_thread_where_there_is_much_of_them(
    front: Front, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(TemplatePrompt, "parts", watched(TemplatePrompt.parts, threads))
    function = {"name": "f", "parameters": {"description": "x" * (30_000 if long else 3)}}
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    front.post("/v1/chat/completions", **asked, tools=[{"type": "function", "function": function}])
    assert [thread != loops_thread(front) for thread in threads] == [long]


@pytest.mark.parametrize("long", [False, True])
def test_long_bodies_are_read_in_a_thread(front: Front, long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(json_body, "read_json", watched(json_body.read_json, threads))
    padding = "x" * json_body.LONG_BODY if long else "x"
    front.complete(max_tokens=1, user=padding)
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
    answers = [
        front.post("/v2/models/tiny/infer", inputs=[tensor], id=padding, parameters={"max_tokens": 1}),
        front.post("/v2/models/tiny/generate", text_input="hi", max_tokens=1, id=padding),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [thread != loops_thread(front) for thread in threads] == [long] * 3


def test_long_bodies_are_read_one_after_the_other(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread that reads one takes its turn before others are served."""
    read, reading, at_a_time = json_body.read_json, [0], []

    def counted(raw: bytes) -> Any:
        reading[0] += 1
        at_a_time.append(reading[0])
        time.sleep(0.01)  # others have the time to begin
        reading[0] -= 1
        return read(raw)

    monkeypatch.setattr(json_body, "read_json", counted)
    body = {"prompt": "hi", "max_tokens": 1, "user": "x" * json_body.LONG_BODY}
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: front.post("/v1/completions", **body).status_code, range(4)))
    assert answers == [200] * 4
    assert at_a_time == [1] * 4
