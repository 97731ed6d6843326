"""/v1/embeddings through the clients that people use; what the engine makes of a prompt is its own tests' matter."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from llmserve.config import ServerConfig
from llmserve.engine.messages import Abort, Submit
from llmserve.request import Pooling

from .conftest import TOKENIZER, Front, running_front
from .fake_engine import vector_of, wait_for
from .test_lifecycle import in_thread

PATH = "/v1/embeddings"
SIZE = 8  # of the model's vectors


def embed(front: Front, **body: Any) -> dict[str, Any]:
    response = front.post(PATH, **body)
    assert response.status_code == 200, response.text
    return response.json()


def asked(front: Front) -> list[Any]:
    return [message.request for message in front.engine.received if isinstance(message, Submit)]


@pytest.mark.parametrize(
    "given, prompts",
    [
        ("hi", ["hi"]),
        (["hi", "明月"], ["hi", "明月"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["hi", [4, 5], "x"], ["hi", [4, 5], "x"]),
    ],
)
def test_every_form_of_input(front: Front, given: Any, prompts: list[Any]) -> None:
    answer = embed(front, input=given, model="tiny")
    CreateEmbeddingResponse.model_validate(answer, strict=True)
    ids = [TOKENIZER.encode(p, add_special_tokens=True) if isinstance(p, str) else p for p in prompts]
    assert [list(request.prompt) for request in asked(front)] == ids
    vectors = [list(struct.unpack(f"<{SIZE}f", vector_of(request))) for request in asked(front)]
    assert [entry["embedding"] for entry in answer["data"]] == vectors
    assert [entry["index"] for entry in answer["data"]] == list(range(len(ids)))
    tokens = sum(map(len, ids))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_holds_the_same_floats_and_is_what_openais_client_asks_for(front: Front) -> None:
    plain = embed(front, input="hi")["data"][0]["embedding"]
    packed = embed(front, input="hi", encoding_format="base64")["data"][0]["embedding"]
    assert list(struct.unpack(f"<{SIZE}f", base64.b64decode(packed))) == plain
    theirs = front.openai.embeddings.create(model="tiny", input="hi")
    assert theirs.data[0].embedding == pytest.approx(plain)
    assert theirs.usage.total_tokens == 2


def test_pooling_is_the_servers_unless_the_request_says(front: Front, endpoint: str) -> None:
    embed(front, input="hi")
    embed(front, input="hi", pooling="mean")
    embed(front, input="hi", pooling="last", priority=3, cache_salt="s", timeout=9)
    assert [request.pooling for request in asked(front)] == [Pooling.LAST, Pooling.MEAN, Pooling.LAST]
    last = asked(front)[-1]
    assert (last.priority, last.cache_salt, last.timeout) == (3, "s", 9)
    with running_front(endpoint, config=ServerConfig(pooling=Pooling.MEAN)) as other:
        embed(other, input="hi")
        assert [request.pooling for request in asked(other)] == [Pooling.MEAN]


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": [10**9]}, "input"),
        ({"input": [1] * 201}, "input"),
        ({"input": "hi", "dimensions": 4}, "dimensions"),
        ({"input": "hi", "dimensions": 0}, "dimensions"),
        ({"input": "hi", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "hi", "pooling": "cls"}, "pooling"),
        ({"input": "hi", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
    ],
)
def test_refusals_name_what_is_at_fault(front: Front, body: dict[str, Any], param: str) -> None:
    response = front.post(PATH, **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert not asked(front)


def test_what_asks_for_nothing_is_taken(front: Front) -> None:
    embed(front, input=[1] * 200, dimensions=SIZE, user="me")


def test_a_time_that_is_up_is_said(front: Front) -> None:
    front.engine.times_out = True
    try:
        response = front.post(PATH, input=["a", "b"], timeout=0.5)
    finally:
        front.engine.times_out = False
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    wait_for(lambda: not front.engine.running)


def test_a_client_that_leaves_ends_them(front: Front) -> None:
    front.engine.allowance = 0
    with front.asking(PATH, input=["a", "b"]):
        wait_for(lambda: len(asked(front)) == 2)
    wait_for(lambda: len([m for m in front.engine.received if isinstance(m, Abort)]) == 2)


def test_a_full_queue_sends_them_away(endpoint: str) -> None:
    with running_front(endpoint, config=ServerConfig(max_queue=1)) as front:
        front.engine.allowance = 0
        answer = in_thread(lambda: front.post(PATH, input=["x"] * 9))
        wait_for(lambda: len(front.engine.running) == 9)
        response = front.post(PATH, input="one more")
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        front.engine.allowance = None
        assert answer().status_code == 200


def test_they_are_counted(front: Front) -> None:
    def metric(name: str) -> float:
        lines = front.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = (
        "llmserve_request_success_total",
        "llmserve_prompt_tokens_total",
        "llmserve_e2e_request_latency_seconds_count",
    )
    before = [metric(name) for name in names]
    embed(front, input=["hi", "ho"])
    assert [metric(name) - old for name, old in zip(names, before, strict=True)] == [2, 4, 2]
