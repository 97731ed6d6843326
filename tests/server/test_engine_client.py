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
from llmserve.server.engine_client import EngineClient, EventStream, NotReadyError

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
            await asyncio.wait_for(test(peer), 10)

    asyncio.run(live())


async def rest(stream: EventStream) -> list[TokenEvent]:
    return [event async for event in stream]


def token(id: int, token: int, finish: Finish | None = None) -> TokenEvent:
    return TokenEvent(id, token, finish)


def test_events_reach_their_own_stream_in_order(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        assert await engine.client.wait_ready() == READY
        one, two = engine.client.submit([ASK]), engine.client.submit([ASK, ASK])
        submitted = [await engine.hear() for _ in range(3)]
        assert [message.request.id for message in submitted] == one.ids + two.ids
        assert all(isinstance(message, Submit) and message.request.prompt == (1, 2) for message in submitted)
        [a], [b, c] = one.ids, two.ids
        await engine.say(
            Events([token(a, 1), token(b, 2), token(c, 3, Finish.STOP)]),
            Events([token(a, 4, Finish.LENGTH), token(b, 5, Finish.LENGTH)]),
        )
        assert [event.token for event in await rest(one)] == [1, 4]
        assert [event.token for event in await rest(two)] == [2, 3, 5]

    run(endpoint, test)


def test_nothing_comes_after_an_abort_or_a_final_event(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        stream = engine.client.submit([ASK, ASK])
        a, b = stream.ids
        await engine.say(Events([token(a, 1), token(b, 1)]))
        await stream.__anext__()
        stream.abort(a)
        stream.abort(a)
        await engine.say(Events([token(a, 2)]), Events([token(b, 2, Finish.STOP), token(b, 3, Finish.STOP)]))
        assert [(event.request_id, event.token) for event in await rest(stream)] == [(b, 1), (b, 2)]
        stream.close()
        heard = [await engine.hear() for _ in range(3)]
        assert heard[2] == Abort(a), "one abort, and none for what had ended"
        assert not await engine.socket.poll(50)

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
        stream = engine.client.submit([ASK, ASK])
        await engine.say(Events([token(stream.ids[0], 1)]))
        assert (await stream.__anext__()).finish is None
        await die(engine)
        events = await rest(stream)
        assert sorted(event.request_id for event in events) == stream.ids
        assert {event.finish for event in events} == {Finish.ERROR}
        assert all(event.error and event.error.endswith((".", ")")) for event in events)
        await engine.client.ended.wait()
        engine.client.engine_died("Again.")
        with pytest.raises(NotReadyError):
            engine.client.submit([ASK])

    run(endpoint, test)


def test_last_words_are_heard_before_the_connection_counts_as_lost(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        stream = engine.client.submit([ASK])
        engine.socket.linger = 1000
        await engine.say(*[Events([token(stream.ids[0], i)]) for i in range(4)])
        await engine.say(Events([token(stream.ids[0], 4, Finish.STOP)]), Stopped())
        engine.socket.close()
        assert [event.token for event in await rest(stream)] == [0, 1, 2, 3, 4]
        await engine.client.ended.wait()
        assert isinstance(engine.client.state, Stopped)

    run(endpoint, test)


def test_the_states_on_the_way(endpoint: str) -> None:
    async def test(engine: Peer) -> None:
        client = engine.client
        assert isinstance(client.state, Loading)
        with pytest.raises(NotReadyError, match="loading"):
            client.submit([ASK])
        await engine.say(Loading("weights", 1, 2), READY, Stats(1, 2, 0.5, 0, 0, 0, 3, 4))
        await client.wait_ready()
        while client.stats is None:
            await asyncio.sleep(0.001)
        assert client.stats.waiting == 2
        client.drain(3.0)
        assert isinstance(client.state, Draining)
        with pytest.raises(NotReadyError, match="shutting down"):
            client.submit([ASK])
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
    streams: list[EventStream] = []

    async def test(engine: Peer) -> None:
        await engine.say(READY)
        await engine.client.wait_ready()
        streams.append(engine.client.submit([ASK]))

    run(endpoint, test)
    [event] = asyncio.run(rest(streams[0]))
    assert (event.finish, event.error) == (Finish.ERROR, "The server stopped.")


def test_an_endpoint_that_cannot_be_had() -> None:
    async def live() -> None:
        async with EngineClient("ipc:///nowhere/at/all"):
            pass

    with pytest.raises(ConfigError, match="Cannot wait for the engine"):
        asyncio.run(live())
