"""Rank 0's voice: whoever has the token hears every word, and notices when the other end is gone."""

from __future__ import annotations

import socket
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmserve.comm.plan_line import Listener, Speaker
from llmserve.errors import EngineDeadError

WORDS = array("i", [3, -1, 2**31 - 1])


@contextmanager
def line(listeners: int) -> Iterator[tuple[Speaker, list[Listener]]]:
    speaker = Speaker("127.0.0.1", listeners)
    accepting = threading.Thread(target=speaker.accept)
    accepting.start()
    ends = [Listener(speaker.address, speaker.token) for _ in range(listeners)]
    accepting.join(timeout=60)
    assert not accepting.is_alive()
    yield speaker, ends
    for end in (speaker, *ends):
        end.close()


def test_every_listener_hears_every_message_in_order() -> None:
    with line(3) as (speaker, listeners):
        for message in (WORDS, array("i"), array("i", [7])):
            speaker.say(message)
        for listener in listeners:
            assert [listener.hear() for _ in range(3)] == [WORDS, array("i"), array("i", [7])]


def test_no_listeners_are_soon_told() -> None:
    with line(0) as (speaker, _):
        speaker.say(WORDS)


def test_a_listener_notices_that_rank_0_is_gone() -> None:
    with line(1) as (speaker, (listener,)):
        speaker.close()
        with pytest.raises(EngineDeadError, match="rank 0 of the engine is gone"):
            listener.hear()


def test_rank_0_notices_that_a_listener_is_gone() -> None:
    with line(1) as (speaker, (listener,)):
        listener.close()
        with pytest.raises(EngineDeadError, match="a rank of the engine is gone"):
            speaker.say(array("i", bytes(1 << 26)))  # more than the kernel keeps for whoever does not listen


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("greeting", [b"", b"short", b"?" * 16, b"GET / HTTP/1.1\r\n\r\n"])
def test_a_stranger_is_turned_away_and_the_ranks_still_find_each_other(
    greeting: bytes, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve.comm.plan_line.GREETING_TIMEOUT", 0.2)
    speaker = Speaker("127.0.0.1", 1)
    with socket.create_connection(speaker.address) as stranger:
        stranger.sendall(greeting)
        if leaves:
            stranger.shutdown(socket.SHUT_WR)
        listener = Listener(speaker.address, speaker.token)  # says its token before its turn comes, and its time
        accepting = threading.Thread(target=speaker.accept)
        accepting.start()
        accepting.join(timeout=60)
        assert not accepting.is_alive()
        speaker.say(WORDS)
        assert listener.hear() == WORDS
        speaker.close()
        listener.close()
