"""KServe v2 by hand: generate and its stream, the forms of tensors, and what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve.engine.messages import Abort, Submit
from llmserve.server.kserve.tensors import from_binary, from_json

from .conftest import END, TOKENS, Front

MODEL = "/v2/models/tiny"
TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["hi"]}
DATALESS = {"name": "text_input", "datatype": "BYTES", "shape": [1]}


def whole(front: Front, **body: Any) -> dict[str, Any]:
    # As curl sends it, and Triton's manual shows it.
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = front.http.post(f"{MODEL}/generate", content=json.dumps({"text_input": "hi", **body}), headers=form)
    assert response.status_code == 200, response.text
    return response.json()


def events(front: Front, **body: Any) -> list[dict[str, Any]]:
    response = front.post(f"{MODEL}/generate_stream", **{"text_input": "hi", **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: {") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


BODIES: dict[str, dict[str, Any]] = {
    "as TensorRT-LLM's examples": {"max_tokens": 20, "bad_words": "", "stop_words": "", "random_seed": 3},
    "as vLLM's": {"parameters": {"max_tokens": 12, "seed": 1, "exclude_input_in_output": True}},
    "both": {"id": "7", "seed": 2, "parameters": {"max_tokens": 30, "stop": ["world"]}},
    "plain": {"seed": 0},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_stream_put_together_is_the_whole_answer(front: Front, name: str) -> None:
    body = BODIES[name]
    answer, parts = whole(front, **body), events(front, **body)
    named = {**body, **body.get("parameters", {})}
    own = {"seed": named.get("seed", named.get("random_seed")), "stop": named.get("stop")}
    completion = front.complete(max_tokens=named.get("max_tokens", 16), **own)
    [choice] = completion["choices"]
    head = {"model_name": "tiny", "model_version": "1"} | ({"id": body["id"]} if "id" in body else {})
    end = {"finish_reason": choice["finish_reason"], "num_output_tokens": completion["usage"]["completion_tokens"]}
    assert answer == {**head, "text_output": choice["text"], **end}
    assert "".join(part["text_output"] for part in parts) == choice["text"]
    assert len(parts) >= 2, "how many is a matter of how fast they are read"
    assert parts[-1] == {**head, "text_output": "", **end}
    assert all(part.keys() == {*head, "text_output"} for part in parts[:-1])


def test_a_stream_may_be_asked_to_be_whole(front: Front) -> None:
    assert events(front, seed=0, stream=False) == [whole(front, seed=0)]


def test_the_end_of_text_ends_it(front: Front) -> None:
    front.engine.script = lambda request: [*TOKENS[:3], END]
    assert whole(front)["finish_reason"] == "stop"


def test_a_client_that_leaves_ends_the_request(front: Front) -> None:
    front.engine.allowance = 3
    body: dict[str, Any] = {"text_input": "hi", "max_tokens": 100}
    with front.http.stream("POST", f"{MODEL}/generate_stream", content=json.dumps(body)) as response:
        next(response.iter_lines())
    front.engine.seen(Abort)
    for path, asked in (("generate", body), ("infer", {"inputs": [TEXT]})):
        front.engine.received.clear()
        front.engine.allowance = 0
        with front.asking(f"{MODEL}/{path}", **asked):
            front.engine.seen(Submit)
        front.engine.seen(Abort)


def refused(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.endswith((".", "…"))
    return error


@pytest.mark.parametrize(
    "body, named",
    [
        ({}, "text_input"),
        ({"text_input": ""}, "text_input"),
        ({"text_input": ["hi"]}, "text_input"),
        ({"text_input": "hi", "max_tokens": 0}, "max_tokens"),
        ({"text_input": "hi", "parameters": {"temperature": -1}}, "temperature"),
        ({"text_input": "hi", "parameters": {"beam_width": 2}}, "beam_width"),
        ({"text_input": "hi", "nonsense": 1}, "nonsense"),
        ({"text_input": "hi", "bad_words": "x"}, "bad_words"),
        ({"text_input": "hi", "exclude_input_in_output": False}, "exclude_input_in_output"),
        ({"text_input": "hi", "seed": 1, "random_seed": 1}, "random_seed"),
        ({"text_input": "hi", "seed": 1, "parameters": {"seed": 1}}, "seed"),
        ({"text_input": "hi", "timeout": 0.5}, "timeout"),
        ({"text_input": "hi", "stream": "yes"}, "stream"),
        ({"text_input": "hi", "max_tokens": 10**6}, "max_tokens"),
        ({"text_input": "x" * 300}, "text_input"),
        ({"text_input": "hi", "id": 3}, "id"),
    ],
)
def test_generate_names_what_it_refuses(front: Front, body: dict[str, Any], named: str) -> None:
    for path in ("generate", "generate_stream"):
        assert named in refused(front.post(f"{MODEL}/{path}", **body))
    assert not any(isinstance(m, Submit) for m in front.engine.received)


def test_generate_does_not_stream(front: Front) -> None:
    assert "generate_stream" in refused(front.post(f"{MODEL}/generate", text_input="hi", stream=True))


def number(name: str, datatype: str, *data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": list(data)}


def wanting(output: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": [TEXT], "outputs": [{"name": output, "parameters": parameters}]}


@pytest.mark.parametrize(
    "body, named",
    [
        ({}, "inputs"),
        ({"inputs": []}, "text_input"),
        ({"inputs": [{**TEXT, "datatype": "INT32", "data": [1]}]}, "text_input"),
        ({"inputs": [{**TEXT, "shape": [2, 1]}]}, "text_input"),
        ({"inputs": [{**TEXT, "shape": [1, 2], "data": ["a", "b"]}]}, "text_input"),
        ({"inputs": [{**TEXT, "shape": [2], "data": ["a", "b"]}]}, "text_input"),
        ({"inputs": [{**TEXT, "shape": [0, 1], "data": []}]}, "text_input"),
        ({"inputs": [{**TEXT, "data": [1]}]}, "text_input"),
        ({"inputs": [{**TEXT, "datatype": "TEXT"}]}, "TEXT"),
        ({"inputs": [TEXT, TEXT]}, "twice"),
        ({"inputs": [TEXT, number("beam_width", "INT32", 2)]}, "beam_width"),
        ({"inputs": [TEXT, number("max_tokens", "FP32", 2.0)]}, "max_tokens"),
        ({"inputs": [TEXT, number("max_tokens", "INT32", 2.5)]}, "max_tokens"),
        ({"inputs": [TEXT, number("max_tokens", "INT32", 2**31)]}, "max_tokens"),
        ({"inputs": [TEXT, number("max_tokens", "INT32", 2, 3)]}, "max_tokens"),
        ({"inputs": [TEXT, number("max_tokens", "INT32", 0)]}, "max_tokens"),
        ({"inputs": [TEXT, number("stream", "BOOL", True)]}, "stream"),
        ({"inputs": [TEXT, number("seed", "INT64", 1)], "parameters": {"seed": 1}}, "seed"),
        ({"inputs": [TEXT], "parameters": {"sequence_id": 1}}, "sequence_id"),
        ({"inputs": [TEXT], "parameters": {"binary_data_output": 1}}, "binary_data_output"),
        (wanting("logits"), "logits"),
        (wanting("text_output", classification=2), "classification"),
        (wanting("text_output", binary_data=1), "binary_data"),
        ({"inputs": [{**TEXT, "parameters": {"shared_memory_region": "x"}}]}, "shared_memory_region"),
        ({"inputs": [{**TEXT, "parameters": {"binary_data_size": 4}}]}, "binary_data_size"),
        ({"inputs": [DATALESS]}, "binary_data_size"),
        ({"inputs": [{**DATALESS, "parameters": {"binary_data_size": 4}}]}, "follow"),
        ({"inputs": [TEXT], "nonsense": 1}, "nonsense"),
        ({"inputs": [1] * 10**6}, "1000000 entries"),
        ({"inputs": [{**TEXT, "shape": ["x"] * 10**6}]}, "1000000 entries"),
        ({"inputs": [TEXT], "outputs": [{}] * 65}, "65 entries"),
    ],
)  # fmt: skip
def test_infer_names_what_it_refuses(front: Front, body: dict[str, Any], named: str) -> None:
    assert named in refused(front.post(f"{MODEL}/infer", **body))
    assert not any(isinstance(m, Submit) for m in front.engine.received)


def test_texts_of_one_request_share_its_parameters(front: Front) -> None:
    two = {**TEXT, "shape": [2, 1], "data": [["a"], ["b"]]}
    same = {"inputs": [two, number("seed", "INT64", 4, 4, shape=[2, 1])]}
    assert front.post(f"{MODEL}/infer", **same).status_code == 200
    other = {"inputs": [two, number("seed", "INT64", 4, 5, shape=[2, 1])]}
    assert "seed differs" in refused(front.post(f"{MODEL}/infer", **other))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'"x"', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_bodies_that_are_no_objects_are_refused(front: Front, content: bytes) -> None:
    for path in ("infer", "generate", "generate_stream"):
        refused(front.http.post(f"{MODEL}/{path}", content=content))
    if content:
        refused(front.http.post("/v2/repository/index", content=content))


def test_what_follows_the_json_must_belong_to_an_input(front: Front) -> None:
    def post(content: bytes, length: str) -> httpx.Response:
        return front.http.post(f"{MODEL}/infer", content=content, headers={"Inference-Header-Content-Length": length})

    head = json.dumps({"inputs": [TEXT]}).encode()
    assert post(head, str(len(head))).status_code == 200
    assert "3 bytes follow" in refused(post(head + b"abc", str(len(head))))
    for length in ("-1", "x", str(len(head) + 1), "9" * 400):
        assert "Inference-Header-Content-Length" in refused(post(head, length))
    encoded = front.http.post(f"{MODEL}/infer", content=head, headers={"content-encoding": "gzip"})
    assert "gzip" in refused(encoded)


def test_paths_that_are_not_there_have_kserves_errors(front: Front) -> None:
    for path in ("/v2/nonsense", "/v2/models/other", "/v2/models/tiny/versions/2", "/v2/models/tiny/versions/2/stats"):
        refused(front.http.get(path), 404)
    refused(front.http.get(f"{MODEL}/infer"), 404)  # a model of that name, which is not served
    refused(front.http.delete(MODEL), 405)
    refused(front.http.post(f"{MODEL}/generate", content=b"x" * 33_000_000), 413)
    assert front.http.get("/v1/nonsense").json()["error"].keys() == {"message", "type", "param", "code"}


def test_versions_are_in_the_path_or_not(front: Front) -> None:
    for path in ("", "/ready", "/config", "/stats"):
        answers = [front.http.get(f"{MODEL}{version}{path}").json() for version in ("", "/versions/1")]
        assert answers[0] == answers[1]


def test_an_index_of_those_that_are_ready(front: Front) -> None:
    for body in ({}, {"ready": True}, {"ready": False}):
        assert [entry["name"] for entry in front.post("/v2/repository/index", **body).json()] == ["tiny"]


elements = {
    "BOOL": st.booleans(),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126),
    "FP64": st.floats(allow_nan=False, allow_infinity=False, min_value=-1e38, max_value=1e38),
    "BYTES": st.text(),
}


@given(st.data())
def test_tensors_come_back_from_either_form(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(sorted(elements)))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    values = data.draw(st.lists(elements[datatype], min_size=count, max_size=count))
    flat = from_json("x", datatype, shape, values)
    rows = [values[i : i + shape[-1]] for i in range(0, count, shape[-1])] if len(shape) == 2 else values
    assert from_json("x", datatype, shape, rows) == flat
    if datatype == "BYTES":
        raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    else:
        _, raw = flat.in_binary()
    assert from_binary("x", datatype, shape, raw) == flat
    said, again = flat.in_binary()
    assert (said["parameters"], again) == ({"binary_data_size": len(raw)}, raw)
    assert flat.in_json()["data"] == values


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    raw=st.binary(max_size=60),
    datatype=st.sampled_from(sorted(elements)),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
def test_any_bytes_are_a_tensor_or_a_named_400(front: Front, raw: bytes, datatype: str, shape: list[int]) -> None:
    given = {"name": "text_input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given], "parameters": {"max_tokens": 2}}).encode()
    response = front.http.post(
        f"{MODEL}/infer", content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    if response.status_code != 200:
        assert "text_input" in refused(response)
