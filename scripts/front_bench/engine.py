"""An engine that speaks the protocol and computes nothing: a step is a message with a token for each stream.

It begins when all streams of a run are there, so that they go in step, and takes its steps at the run's rate, or one
right after the other. Runs in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from llmserve.engine.messages import Events, Ready, Stats, Submit, decode_to_engine, encode
from llmserve.request import Finish, Request, TokenEvent
from llmserve.tokenizer import Tokenizer

from .answers import answer
from .cores import stay_on

MAX_MODEL_LEN = 2**20
AHEAD_S = 0.5
"""How long after its last request a run begins: by then the front has sent the streams' heads."""


def run_engine(folder: Path, endpoint: str, streams: int, rates: Sequence[float], cores: set[int]) -> None:
    """`rates`: tokens a second over all streams, of each run; infinite: as fast as they can be sent."""
    stay_on(cores)
    tokenizer = Tokenizer.load(folder)
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(0)
    socket.connect(endpoint)
    socket.send(encode(Ready(MAX_MODEL_LEN, streams, MAX_MODEL_LEN, 16, 1, "cpu")))
    for rate in rates:
        requests = [_submitted(socket) for _ in range(streams)]
        answers = [answer(tokenizer, r.sampling.seed, r.sampling.max_tokens) for r in requests]
        time.sleep(AHEAD_S)
        _take_steps(socket, requests, answers, streams / rate)
    socket.poll()  # until the front, or who started us, is gone
    context.destroy(linger=0)


def _submitted(socket: zmq.Socket[bytes]) -> Request:
    while True:
        message = decode_to_engine(socket.recv())
        if isinstance(message, Submit):
            return message.request


def _take_steps(socket: zmq.Socket[bytes], requests: list[Request], answers: list[list[int]], period: float) -> None:
    begin, count = time.perf_counter(), len(answers[0])
    for step in range(count):
        finish = Finish.LENGTH if step == count - 1 else None
        events = [TokenEvent(r.id, ids[step], finish) for r, ids in zip(requests, answers, strict=True)]
        stats = Stats(len(requests), 0, 0.5, 0, 0, 0, step, step) if step % 100 == 0 else None
        wait = begin + step * period - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        socket.send(encode(Events(events, stats)))
