"""The endpoints beside chat and completions, over a real engine on two ranks: vectors, tokens, KServe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from tests.e2e.answers import mixed_requests
from tests.e2e.server import Server, serving

PROMPTS = [request["prompt"] for request in mixed_requests()]


@pytest.fixture(scope="module")
def server(demo_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In chunks of seven tokens."""
    log = tmp_path_factory.mktemp("logs") / "log"
    with serving(demo_engine, log, "--max-num-batched-tokens", "7", ranks=2) as server:
        yield server


def vectors(server: Server, prompts: Any, **body: Any) -> list[list[float]]:
    response = httpx.post(f"{server.base}/v1/embeddings", json={"input": prompts, **body}, timeout=60)
    assert response.status_code == 200, response.text
    return [entry["embedding"] for entry in response.json()["data"]]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_the_same_whole_and_alone_and_in_chunks_beside_answers(
    server: Server, demo_engine: Path, tmp_path: Path, pooling: str
) -> None:
    flags = ("--max-num-batched-tokens", "1024", "--no-prefix-caching")
    with serving(demo_engine, tmp_path / "log", *flags, ranks=2) as whole:
        alone = [vectors(whole, [prompt], pooling=pooling)[0] for prompt in PROMPTS]
    stop = threading.Event()
    request = {"prompt": PROMPTS[-1], "max_tokens": 100, "temperature": 0, "extra_body": {"ignore_eos": True}}

    def talk() -> None:
        while not stop.is_set():
            server.client.completions.create(model="demo", **request)

    talking = threading.Thread(target=talk, daemon=True)
    talking.start()
    try:
        together = [vectors(server, PROMPTS, pooling=pooling) for _ in range(2)]
    finally:
        stop.set()
        talking.join(60)
    assert together == [alone, alone]
    assert np.abs(np.linalg.norm(alone, axis=1) - 1).max() < 1e-6
    assert len({tuple(vector) for vector in alone}) == len(PROMPTS)


def test_openais_client_gets_them(server: Server) -> None:
    texts = ["What is the capital of France?", "法国的首都是哪里？"]
    answer = server.client.embeddings.create(model="demo", input=texts)
    plain = vectors(server, texts)
    assert [entry.embedding for entry in answer.data] == [pytest.approx(vector) for vector in plain]


def test_tokens_there_and_back(server: Server) -> None:
    text = "What is in-flight batching? 什么是批处理？"
    told = httpx.post(f"{server.base}/tokenize", json={"prompt": text}).json()
    assert httpx.post(f"{server.base}/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": text}
    assert vectors(server, text) == vectors(server, [told["tokens"]])


def test_infer_and_generate_are_completions(server: Server) -> None:
    texts = ["Question: 2+3? Answer:", "你好"]
    expected = [
        choice.text
        for choice in server.client.completions.create(model="demo", prompt=texts, max_tokens=20, temperature=0).choices
    ]
    client = InferenceServerClient(server.base.removeprefix("http://"))
    assert client.is_model_ready("demo")
    given = InferInput("text_input", [2, 1], "BYTES")
    given.set_data_from_numpy(np.array(texts, dtype=object).reshape(2, 1))
    result = client.infer("demo", [given], parameters={"max_tokens": 20, "temperature": 0})
    client.close()
    assert [text.decode() for text in result.as_numpy("text_output")[:, 0]] == expected
    body = {"text_input": texts[0], "max_tokens": 20, "temperature": 0}
    whole = httpx.post(f"{server.base}/v2/models/demo/generate", json=body, timeout=60).json()
    assert whole["text_output"] == expected[0]
