"""A call whose grammar is still to be read: it is not waited for any longer than somebody is there to be answered."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from llmserve.engine.messages import Failed, Submit
from llmserve.grammar import Grammar, Library
from llmserve.server.grammars import Grammars
from llmserve.server.middleware import Edge

from .conftest import Front, running_front
from .fake_engine import wait_for

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi", "structured_outputs": {"regex": "NAME"}},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hi"}],
        "structured_outputs": {"regex": "NAME"},
    },
    "/v1/responses": {
        "input": "hi",
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"const": "NAME"}}},
    },
}


def asked(path: str, name: str) -> dict[str, Any]:
    """For a form that nobody has asked for."""
    return json.loads(json.dumps(BODIES[path]).replace("NAME", path.replace("/", "_") + name))


class Reading:
    """Grammars that are read only once `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.waited: list[str] = []
        self.left: list[str] = []  # of those that were waited for: nobody does any more
        self.begun: list[str] = []
        read, check = Library.grammar, Grammars.check

        def slowly(library: Library, text: str) -> Grammar:
            self.begun.append(text)
            assert self.go.wait(60)
            return read(library, text)

        async def watched(grammars: Grammars, grammar: str, param: str) -> None:
            self.waited.append(grammar)
            try:
                await check(grammars, grammar, param)
            finally:
                self.left.append(grammar)

        monkeypatch.setattr(Library, "grammar", slowly)
        monkeypatch.setattr(Grammars, "check", watched)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    reading = Reading(monkeypatch)
    yield reading
    reading.go.set()


def leave(front: Front, path: str, body: dict[str, Any], reading: Reading) -> None:
    waited = len(reading.waited)
    with front.asking(path, **body):
        wait_for(lambda: len(reading.waited) > waited and reading.begun)  # the first is being read by now


@pytest.mark.parametrize("path", sorted(BODIES))
def test_what_its_client_no_longer_waits_for_is_not_read(front: Front, path: str, reading: Reading) -> None:
    for name in ("first", "second"):
        leave(front, path, asked(path, name), reading)
    wait_for(lambda: len(reading.left) == 2)
    reading.go.set()
    assert front.post(path, **asked(path, "third")).status_code == 200
    told = [name for name in ("first", "second", "third") if any(name in text for text in reading.begun)]
    assert told == ["first", "third"]
    assert len([message for message in front.engine.received if isinstance(message, Submit)]) == 1


@pytest.mark.parametrize("code", ["not_ready", "engine_dead"])
def test_nobody_waits_for_a_grammar_that_no_engine_will_follow(endpoint: str, code: str, reading: Reading) -> None:
    with running_front(endpoint) as front, ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(front.post, path, **asked(path, code)) for path in BODIES]
        wait_for(lambda: len(reading.waited) == len(BODIES))
        if code == "not_ready":
            front.loop.call_soon_threadsafe(front.client.drain, 10.0)
        else:
            front.engine.say(Failed("it broke."))
        for each in answers:
            response = each.result(60)
            assert (response.status_code, response.json()["error"]["code"]) == (503, code)
            assert response.headers["retry-after"]
        reading.go.set()


def test_what_a_stopping_server_breaks_off_is_told_so() -> None:
    sent: list[Any] = []

    async def never_done(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def receive() -> Any:
        raise AssertionError("nobody reads")

    async def send(message: Any) -> None:
        sent.append(message)

    async def exchange() -> None:
        scope = {"type": "http", "path": "/v1/completions", "headers": []}
        task = asyncio.create_task(Edge(never_done)(scope, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(exchange())
    head, body = sent
    assert head["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "not_ready"
