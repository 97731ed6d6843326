"""Requests of every kind, and their answers as they came over HTTP: whole, so that `==` between two leaves nothing out.

Knows nothing of how the server computes them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.e2e.server import Server

LENGTHS = (1, 2, 5, 16, 17, 31, 33, 48, 63, 64, 80, 90)
"""Of the prompts: around blocks of 16 tokens and chunks of 64 and 7, and the longest of all last."""

SHARED_PREFIX = 40
"""The two longest prompts begin alike, for two blocks and a half."""

Ask = dict[str, Any]


def mixed_requests() -> list[Ask]:
    """Every other one is sampled, with a seed of its own; one wants two answers, one is told of its prompt."""
    rng = random.Random(2)
    requests: list[Ask] = []
    for i, length in enumerate(LENGTHS):
        extra: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}
        request: Ask = {
            "prompt": [rng.randrange(10, 1000) for _ in range(length)],
            "max_tokens": rng.randrange(40, 100),
            "temperature": 0,
            "logprobs": i % 4,
            "extra_body": extra,
        }
        if i % 2:
            request |= {"temperature": 0.9, "top_p": 0.9, "seed": i}
            extra["top_k"] = 40
        requests.append(request)
    requests[5]["n"] = 2
    requests[8]["extra_body"]["prompt_logprobs"] = 2
    requests[-2]["prompt"][:SHARED_PREFIX] = requests[-1]["prompt"][:SHARED_PREFIX]
    return requests


@dataclass(frozen=True)
class Answer:
    choices: list[dict[str, Any]]  # with ids, texts and all log-probabilities, of the prompt too where they were wanted
    cached_tokens: int

    @property
    def token_ids(self) -> list[list[int]]:
        return [choice["token_ids"] for choice in self.choices]

    @property
    def generated(self) -> int:
        return sum(map(len, self.token_ids))


def ask(server: Server, request: Ask) -> Answer:
    answer = server.client.completions.create(model="demo", **request)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    return Answer([choice.model_dump() for choice in answer.choices], cached)


def ask_at_once(server: Server, requests: Sequence[Ask]) -> list[Answer]:
    with ThreadPoolExecutor(len(requests)) as pool:
        with server.held(len(requests)):
            answers = [pool.submit(ask, server, request) for request in requests]
        return [answer.result() for answer in answers]


def assert_same(answers: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """To the last bit: JSON's numbers are read back as the very floats that were written."""
    for i, (answer, other) in enumerate(zip(answers, expected, strict=True)):
        assert answer.token_ids == other.token_ids, f"request {i}"
        assert answer.choices == other.choices, f"request {i}"
