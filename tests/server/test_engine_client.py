"""The wire to the engine: every request ends with exactly one final event, whatever the engine does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import zmq
import zmq.asyncio

from llmserve.engine.messages import (
    Abort,
    Drain,
    Draining,
    Events,
    Failed,
    Loading,
    Stats,
    Stopped,
    Submit,
    decode_to_engine,
    encode,
)
from llmserve.errors import ConfigError
from llmserve.request import Finish, SamplingParams, TokenEvent
from llmserve.server.engine_client import EngineClient, NotReadyError

from .fake_engine import READY

ASK = ((1, 2), SamplingParams(max_tokens=5))


class Peer:
    """The engine's end, in the test's hands."""

    def __init__(self, client: EngineClient, socket: zmq.asyncio.Socket) -> None:
        self.client = client
        self.socket = socket

    async def say(self, *messages: Any) -> None:
        for message in messages:
            await self.socket.send(encode(message))

    async def hear(self) -> Any:
        return decode_to_engine(await self.socket.recv())


@asynccontextmanager
async def connected(endpoint: str) -> AsyncIterator[Peer]:
    with zmq.asyncio.Context() as context:
        async with EngineClient(endpoint) as client:
            socket = context.socket(zmq.PAIR)
            socket.linger = 0
            socket.connect(endpoint)
            yield Peer(client, socket)
            socket.close()


def run(endpoint: str, test: Callable[[Peer], Awaitable[None]]) -> None:
    async def live() -> None:
        async with connected(endpoint) as peer:
            await asyncio.wait_for(test(peer), 60)

    asyncio.run(live())


class Taken:
    """The events of one submit, in the order in which they came."""

    def __init__(self, client: EngineClient, count: int) -> None:
        self.events: list[TokenEvent] = []
        self._changed = asyncio.Event()
        self.ids = client.submit([ASK] * count, self._take)

    def _take(self, event: TokenEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, count: int) -> list[TokenEvent]:
        while len(self.events) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.events

    async def all(self) -> list[TokenEvent]:
        """When each has ended."""
        while sum(event.finish is not None for event in self.events) < len(self.ids):
            await self.until(len(self.events) + 1)
        return self.events


def token(id: int, token: int, finish: Finish | None = None) -> TokenEvent:
    return TokenEvent(id, token, finish)


def test_events_reach_their_own_stream_in_order(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        assert await engine.client.wait_ready() == READY
        one, two = Taken(engine.client, 1), Taken(engine.client, 2)
        submitted = [await engine.hear() for _ in range(3)]
        assert [message.request.id for message in submitted] == one.ids + two.ids
        assert all(isinstance(message, Submit) and message.request.prompt == (1, 2) for message in submitted)
        [a], [b, c] = one.ids, two.ids
        await engine.say(
            Events([token(a, 1), token(b, 2), token(c, 3, Finish.STOP)]),
            Events([token(a, 4, Finish.LENGTH), token(b, 5, Finish.LENGTH)]),
        )
        assert [event.token for event in await one.all()] == [1, 4]
        assert [event.token for event in await two.all()] == [2, 3, 5]

    run(endpoint, test)


def test_nothing_comes_after_an_abort_or_a_final_event(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        taken = Taken(engine.client, 2)
        a, b = taken.ids
        await engine.say(Events([token(a, 1), token(b, 1)]))
        await taken.until(2)
        engine.client.abort(a)
        engine.client.abort(a)
        await engine.say(Events([token(a, 2)]), Events([token(b, 2, Finish.STOP), token(b, 3, Finish.STOP)]))
        assert [(event.request_id, event.token) for event in await taken.until(3)] == [(a, 1), (b, 1), (b, 2)]
        engine.client.abort(b)
        heard = [await engine.hear() for _ in range(3)]
        assert heard[2] == Abort(a), "one abort, and none for what had ended"
        assert not await engine.socket.poll(50)
        assert len(taken.events) == 3

    run(endpoint, test)


def test_what_was_aborted_counts_until_the_engine_has_let_go_of_it(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        client = engine.client
        await engine.say(READY)
        await client.wait_ready()
        taken = Taken(client, 2)
        a, b = taken.ids
        client.abort(a)
        assert client.open_requests == 2, "the engine may be at work on it"
        await engine.say(Events([token(b, 1, Finish.STOP)]))
        await taken.until(1)
        assert client.open_requests == 1
        assert len(client.ended_at) == 1
        await engine.say(Events([TokenEvent(a, None, Finish.ABORT)]))
        while client.open_requests:
            await asyncio.sleep(0.001)
        assert len(client.ended_at) == 2
        assert [event.request_id for event in taken.events] == [b]

    run(endpoint, test)


def test_a_flood_leaves_the_loop_time_for_others(endpoint: str) -> None:
    """All messages are there at once; whoever reads is asked in between, and nothing is lost."""

    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        taken = Taken(engine.client, 1)
        [a] = taken.ids
        count = 20_000
        for i in range(count):
            engine.socket.send(encode(Events([token(a, i, Finish.LENGTH if i == count - 1 else None)])))
        seen = {0}
        while count not in seen:
            seen.add(len(taken.events))
            await asyncio.sleep(0)
        assert [event.token for event in taken.events] == list(range(count))
        assert len(seen) > 2

    run(endpoint, test)


async def die_by_silence(engine: Peer) -> None:
    engine.socket.close()


async def die_by_word(engine: Peer) -> None:
    await engine.say(Failed("It is gone."))


async def die_by_call(engine: Peer) -> None:
    engine.client.engine_died("It is gone.")


async def die_by_nonsense(engine: Peer) -> None:
    await engine.socket.send(b"nonsense")


async def stop_too_early(engine: Peer) -> None:
    await engine.say(Stopped())


@pytest.mark.parametrize("die", [die_by_silence, die_by_word, die_by_call, die_by_nonsense, stop_too_early])
def test_every_open_request_ends_once_when_the_engine_does(
    endpoint: str, die: Callable[[Peer], Awaitable[None]]
) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        taken = Taken(engine.client, 2)
        await engine.say(Events([token(taken.ids[0], 1)]))
        assert (await taken.until(1))[0].finish is None
        await die(engine)
        [_, *events] = await taken.all()
        assert sorted(event.request_id for event in events) == taken.ids
        assert {event.finish for event in events} == {Finish.ERROR}
        assert all(event.error and event.error.endswith((".", ")")) for event in events)
        await engine.client.ended.wait()
        engine.client.engine_died("Again.")
        with pytest.raises(NotReadyError):
            Taken(engine.client, 1)
        assert engine.client.open_requests == 0

    run(endpoint, test)


def test_last_words_are_heard_before_the_connection_counts_as_lost(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        taken = Taken(engine.client, 1)
        engine.socket.linger = 1000
        await engine.say(*[Events([token(taken.ids[0], i)]) for i in range(4)])
        await engine.say(Events([token(taken.ids[0], 4, Finish.STOP)]), Stopped())
        engine.socket.close()
        assert [event.token for event in await taken.all()] == [0, 1, 2, 3, 4]
        await engine.client.ended.wait()
        assert isinstance(engine.client.state, Stopped)

    run(endpoint, test)


def test_the_states_on_the_way(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        client = engine.client
        assert isinstance(client.state, Loading)
        with pytest.raises(NotReadyError, match="loading"):
            Taken(client, 1)
        await engine.say(Loading("weights", 1, 2), READY, Stats(1, 2, 0.5, 0, 0, 0, 3, 4))
        await client.wait_ready()
        while client.stats is None:
            await asyncio.sleep(0.001)
        assert client.stats.waiting == 2
        client.drain(3.0)
        assert isinstance(client.state, Draining)
        with pytest.raises(NotReadyError, match="shutting down"):
            Taken(client, 1)
        assert await engine.hear() == Drain(3.0)
        await engine.say(Stopped())
        await client.ended.wait()

    run(endpoint, test)


def test_told_to_stop_while_loading_it_never_gets_ready(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.client.connected.wait()
        engine.client.drain(0)
        await engine.say(READY)
        assert await engine.hear() == Drain(0)
        await engine.say(Draining(), Stopped())
        await engine.client.ended.wait()
        with pytest.raises(NotReadyError):
            await engine.client.wait_ready()

    run(endpoint, test)


def test_leaving_ends_what_is_open(endpoint: str) -> None:
    all_taken: list[Taken] = []

    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        all_taken.append(Taken(engine.client, 1))

    run(endpoint, test)
    [event] = all_taken[0].events
    assert (event.finish, event.error) == (Finish.ERROR, "The server stopped.")


def test_an_endpoint_that_cannot_be_had() -> None:
    async def live() -> None:
        async with EngineClient("ipc:///nowhere/at/all"):
            pass

    with pytest.raises(ConfigError, match="Cannot wait for the engine"):
        asyncio.run(live())
