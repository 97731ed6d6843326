"""Requests with their events, and what of it must not depend on anything but the request."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from llmserve.config import EngineConfig
from llmserve.engine.offline import OfflineEngine
from llmserve.request import Finish, Request, SamplingParams, TokenEvent, TokenLogprobs
from tests.tiny import SIZES

REFERENCE_LOGPROBS = 1e-4
"""How far logprobs of the reference operations may be off: torch's products differ in the last bits with the number of
rows. Those of the kernels do not."""


@dataclass(frozen=True)
class Built:
    """An engine's folder, and how every Engine of it is run."""

    folder: Path
    config: dict[str, object]
    window: int | None  # each token of each of the two layers sees only so many

    @property
    def is_reference(self) -> bool:
        return self.config.get("kernels") == "reference"

    @property
    def small_block(self) -> int:
        """The smallest block size there is, but for the reference one that is no power of two as well."""
        return 3 if self.is_reference else 16


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # the chosen tokens', then the alternatives', token by token
    finish: Finish | None = None
    cached_tokens: int = 0
    prompt: list[TokenLogprobs] = field(default_factory=list)
    vector: list[float] | None = None

    def add(self, event: TokenEvent) -> None:
        assert self.finish is None, "an event after the final one"
        self.finish = event.finish
        self.cached_tokens += event.cached_tokens
        self.prompt += event.prompt_logprobs
        self.vector = None if event.vector is None else array("f", event.vector).tolist()
        if event.token is not None:
            self.tokens.append(event.token)
        if event.logprobs is not None:
            self.logprobs += numbers(event.logprobs)


def numbers(logprobs: TokenLogprobs) -> list[float]:
    return [logprobs.chosen, *(logprob for _, logprob in logprobs.top)]


def assert_same(ours: Answer, expected: Answer, built: Built) -> None:
    assert ours.tokens == expected.tokens
    assert ours.finish == expected.finish
    if built.is_reference:
        assert ours.vector == (expected.vector and pytest.approx(expected.vector, abs=REFERENCE_LOGPROBS))
        assert ours.logprobs == pytest.approx(expected.logprobs, abs=REFERENCE_LOGPROBS)
        prompts = [[n for logprobs in answer.prompt for n in numbers(logprobs)] for answer in (ours, expected)]
        assert prompts[0] == pytest.approx(prompts[1], abs=REFERENCE_LOGPROBS)
    else:
        assert ours.logprobs == expected.logprobs  # to the last bit
        assert ours.prompt == expected.prompt
        assert ours.vector == expected.vector


class Engine:
    """An engine in this process, and the answers so far."""

    def __init__(self, built: Built, **config: object) -> None:
        self.built = built
        chosen = EngineConfig(**{"threads": 1, **built.config, **config})
        self.native = OfflineEngine(built.folder, chosen).engine
        self.answers: dict[int, Answer] = {}

    def submit(self, request: Request) -> None:
        self.native.submit(request)
        self.answers[request.id] = Answer()

    def add(self, events: Iterable[TokenEvent]) -> None:
        for event in events:
            self.answers[event.request_id].add(event)

    def step(self) -> None:
        self.add(self.native.step())

    def run(self, requests: Iterable[Request] = ()) -> dict[int, Answer]:
        """All of these at once, to their ends."""
        for request in requests:
            self.submit(request)
        while self.native.has_work:
            self.step()
        return self.answers


def alone(built: Built, requests: Iterable[Request]) -> dict[int, Answer]:
    """Each request undisturbed, in an engine of its own: the answer that it must always get."""
    return {request.id: Engine(built, prefix_caching=False).run([request])[request.id] for request in requests}


def some_requests() -> list[Request]:
    """Short and long, greedy and seeded in every way; two pairs and a triple share a prefix; two tell of prompts."""
    rng = random.Random(0)
    prompts = [rng.choices(range(SIZES["vocab_size"]), k=length) for length in (1, 4, 17, 33, 47, 64)]
    prompts += [prompts[3] + [9, 8, 7], prompts[5][:40], [*prompts[5][:40], 1], prompts[2]]
    ways = [
        SamplingParams(max_tokens=12, temperature=0),
        SamplingParams(max_tokens=9, temperature=1.0, seed=11, logprobs=3),
        SamplingParams(max_tokens=15, temperature=0.7, top_p=0.9, seed=12, logprobs=0),
        SamplingParams(max_tokens=6, temperature=1.3, top_k=7, seed=13),
        SamplingParams(max_tokens=20, temperature=0, logprobs=5),
    ]
    told = {3: 3, 8: 0}
    return [
        Request(i, tuple(p), replace(ways[i % 5], seed=ways[i % 5].seed + i, prompt_logprobs=told.get(i)))
        for i, p in enumerate(prompts)
    ]
