"""Connections that cost the server more than they should: too many, too slow, silent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmserve.server import listen, middleware

from .conftest import Front, running_front

POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@contextlib.contextmanager
def connected(front: Front) -> Iterator[socket.socket]:
    address = urlsplit(front.url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        yield connection


def send(connection: socket.socket, data: bytes) -> None:
    """As far as the server, which may have closed already, takes it."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(data)


def read(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # it did not read all that was sent
        while more := connection.recv(65536):
            answer += more
    return answer


def healthy(connection: socket.socket, asked: bytes = HEALTH) -> bool:
    connection.sendall(asked)
    answer = b""
    while not answer.endswith(b"}"):
        more = connection.recv(65536)
        assert more, answer
        answer += more
    return answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost:"])
def test_a_connection_without_a_request_is_closed(front: Front, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(listen._Connection, "_idle_s", 0.3)
    with connected(front) as connection:
        send(connection, sent)
        assert read(connection) == b""


def test_a_beginning_after_an_answer_is_closed_too(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(front) as connection:
        assert healthy(connection)
        monkeypatch.setattr(listen._Connection, "_idle_s", 0.3)
        connection.sendall(HEALTH[:20])
        assert read(connection) == b""


@pytest.mark.parametrize("sent", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_after_an_answer_are_no_request(front: Front, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with connected(front) as connection:
        assert healthy(connection)
        monkeypatch.setattr(listen._Connection, "_idle_s", 0.3)
        connection.sendall(sent)
        assert read(connection) == b""


@pytest.mark.parametrize("line", [b"x: y\r\n", b"\r\n", b"y"])
def test_a_head_without_an_end_is_not_kept(front: Front, line: bytes) -> None:
    with connected(front) as connection:
        begin = b"" if line == b"\r\n" else HEALTH[:-2] + (b"" if line.endswith(b"\n") else b"x: ")
        send(connection, begin + line * (listen.MAX_HEAD // len(line)))
        send(connection, line * 200)
        assert read(connection).startswith(b"HTTP/1.1 400 ")
    with connected(front) as connection:
        assert healthy(connection, HEALTH[:-2] + b"x: " + b"y" * (listen.MAX_HEAD - 100) + b"\r\n\r\n")
        assert healthy(connection)


def test_pipelined_requests_are_answered_in_turn(front: Front) -> None:
    with connected(front) as connection:
        body = b'{"prompt": "hi", "max_tokens": 3, "seed": 0}'
        head = POST.replace(b"100", str(len(body)).encode())
        connection.sendall((head + body) * 3 + HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        answers = read(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 4
    assert [b"text_completion" in answer for answer in answers] == [True] * 3 + [False]


def test_a_request_that_begins_behind_a_large_body_may_come_in_pieces(front: Front) -> None:
    """Nobody knows which of the bytes that came together are its head's."""
    body = b'{"prompt": "hi", "max_tokens": 3, "seed": 0}'
    body += b" " * (4 * listen.MAX_HEAD - len(body))
    with connected(front) as connection:
        for _ in range(3):
            connection.sendall(POST.replace(b"100", str(len(body)).encode()) + body + HEALTH[:9])
            answer = b""
            while b"text_completion" not in answer:
                more = connection.recv(65536)
                assert more, answer
                answer += more
            assert healthy(connection, HEALTH[9:])


def test_a_body_that_does_not_come(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_BODY_S", 0.3)
    with connected(front) as connection:
        connection.sendall(POST + b'{"prompt"')
        head, _, body = read(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


def test_an_answer_may_take_longer_than_a_request(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen._Connection, "_idle_s", 2)
    monkeypatch.setattr(middleware, "MAX_BODY_S", 2)
    front.engine.allowance = 1
    # With token ids every token has a chunk, also one whose text is a part of a character.
    body = b'{"prompt": "hi", "max_tokens": 20, "stream": true, "return_token_ids": true}'
    with connected(front) as connection:
        connection.sendall(POST.replace(b"100", b"%d\r\nconnection: close" % len(body)) + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        time.sleep(2.5)
        front.engine.allowance = None
        assert read(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_one_connection_too_many(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "most_connections", lambda: 2)
    with running_front(endpoint) as front, connected(front) as first, connected(front) as second:
        assert healthy(first)
        assert healthy(second)
        with connected(front) as third:
            third.sendall(HEALTH)
            head, _, body = read(third).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in head.lower()
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        assert healthy(first), "those that are there are served"


def test_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, Any] = {"now": (1024, 524288)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(now=new))
    assert listen.most_connections() == 1024 - listen.SPARE_FILES
    listen.raise_file_limit()
    assert limits["now"] == (listen.MOST_FILES, 524288)
    limits["now"] = (256, 256)
    listen.raise_file_limit()
    assert limits["now"] == (256, 256)
    assert listen.most_connections() == 128
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    listen.raise_file_limit()
    assert listen.most_connections() == listen.MOST_FILES - listen.SPARE_FILES


def test_a_full_table_of_files_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    errors = listen._LoopErrors()
    with contextlib.closing(loop), caplog.at_level(logging.ERROR):
        for _ in range(1000):
            errors(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")})
        assert len(caplog.records) == 1
        errors(loop, {"message": "something else", "exception": OSError(errno.EPIPE, "Broken pipe")})
    assert [record.getMessage()[:14] for record in caplog.records[1:]] == ["something else"]
