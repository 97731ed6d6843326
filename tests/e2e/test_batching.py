"""Under load, with a KV cache that does not hold it: every request gets what it gets alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, serving

BLOCK = 16
SMALL_CACHE = {"float32": "480KiB", "bfloat16": "240KiB", "int8": "140KiB"}
"""By the kind of the KV cache: memory for the longest request, and little more."""


def mixed_requests(count: int) -> list[dict[str, Any]]:
    """Prompts of 3 to 60 tokens, 5 to 120 new ones; every other one sampled with a seed of its own."""
    rng = random.Random(2)
    return [
        {
            "prompt": [rng.randrange(10, 1000) for _ in range(rng.randrange(3, 60))],
            "max_tokens": rng.randrange(5, 120),
            "temperature": 0 if i % 2 else 0.8,
            "seed": i,
            "logprobs": 0,
            "extra_body": {"ignore_eos": True, "return_token_ids": True},
        }
        for i in range(count)
    ]


def ask(server: Server, request: dict[str, Any]) -> Any:
    return server.client.completions.create(model="demo", **request)


@pytest.fixture(scope="module", params=SMALL_CACHE)
def server(request: pytest.FixtureRequest, demo_engine: Path, tmp_path_factory: pytest.TempPathFactory):
    flags = ["--kv-cache-dtype", request.param, "--kv-cache-memory", SMALL_CACHE[request.param]]
    flags += ["--max-model-len", "200", "--block-size", str(BLOCK)]
    with serving(demo_engine, tmp_path_factory.mktemp("log") / "log", *flags, ranks=2) as running:
        yield running


def test_batched_and_preempted_equals_alone_and_cached_equals_cold(server: Server) -> None:
    requests = mixed_requests(32)
    alone = [ask(server, request) for request in requests]
    assert server.metric("llmserve_num_preemptions_total") == 0
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda request: ask(server, request), requests))
    assert server.metric("llmserve_num_preemptions_total") > 0, "the cache held all of it: nothing was shown"
    for one, other in zip(alone, together, strict=True):
        assert other.choices[0].token_ids == one.choices[0].token_ids
        assert other.choices[0].finish_reason == "length"
        assert other.choices[0].logprobs.token_logprobs == one.choices[0].logprobs.token_logprobs  # to the last bit


def test_the_same_prompt_again_hits_the_prefix_cache_and_gives_the_same(server: Server) -> None:
    request = max(mixed_requests(32), key=lambda r: len(r["prompt"]))
    cold = ask(server, request | {"prompt": [5, *request["prompt"]]})
    cached = ask(server, request | {"prompt": [5, *request["prompt"]]})
    assert cold.usage.prompt_tokens_details.cached_tokens == 0
    assert cached.usage.prompt_tokens_details.cached_tokens == len(request["prompt"]) // BLOCK * BLOCK
    assert cached.choices[0].token_ids == cold.choices[0].token_ids
    assert cached.choices[0].logprobs.token_logprobs == cold.choices[0].logprobs.token_logprobs
