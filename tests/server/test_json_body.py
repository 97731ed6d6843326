"""Strings that no text can be are refused wherever they stand, before anything is asked of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import RequestError
from llmserve.server import json_size
from llmserve.server.json_body import read_json

from .conftest import Front

HALF = "a\ud800"
SCHEMA = {"type": "json_schema", "name": HALF, "schema": {}}
TOOL = {"type": "function", "name": "f", "description": HALF}
TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/v1/completions", {"prompt": "hi", "user": HALF}, "user"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi", "name": HALF}]}, "messages"),
        ("/v1/responses", {"input": "hi", "user": HALF}, "user"),
        ("/v1/responses", {"input": "hi", "metadata": {"a": HALF}}, "metadata"),
        ("/v1/responses", {"input": "hi", "metadata": {HALF: "a"}}, "metadata"),
        ("/v1/responses", {"input": "hi", "text": {"format": SCHEMA}}, "text"),
        ("/v1/responses", {"input": "hi", "tools": [TOOL]}, "tools"),
        ("/v2/models/tiny/infer", {"inputs": [TEXT], "id": HALF}, "id"),
        ("/v2/models/tiny/generate", {"text_input": "hi", "id": HALF}, "id"),
        ("/v2/models/tiny/generate_stream", {"text_input": "hi", "id": HALF}, "id"),
    ],
)
def test_half_of_a_pair_is_refused(front: Front, path: str, body: dict[str, Any], param: str, stream: bool) -> None:
    response = front.post(path, **body, **({"stream": True} if stream else {}))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error if path.startswith("/v2") else error["message"]).startswith(f"{param} has half of a surrogate pair")
    assert path.startswith("/v2") or error["param"] == param
    assert not front.engine.received


@pytest.mark.parametrize("raw", [b'{"prompt": "\xed\xa0\x80"}', '{"prompt": "hi"}'.encode("utf-16")])
def test_what_is_not_utf8_is_refused(front: Front, raw: bytes) -> None:
    response = front.http.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "is not UTF-8" in response.json()["error"]["message"]


def refused_as_too_many(raw: bytes) -> bool:
    try:
        read_json(raw)
    except RequestError as e:
        return " names; send less" in str(e)
    return False


@pytest.mark.parametrize("each", [b"1", b"[]", b"{}", b'""', b'"a\\\\"', b'{"a":0}', b'"\\",[{"'])
def test_a_body_has_so_many_values_and_no_more(each: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_size, "MAX_VALUES", 1000)
    assert not refused_as_too_many(b"[" + b",".join([each] * 300) + b"]")
    assert refused_as_too_many(b"[" + b",".join([each] * 1002) + b"]")


def test_a_body_has_so_many_names_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_size, "MAX_NAMES", 1000)
    for names, refused in ((1000, False), (1001, True)):
        assert refused_as_too_many(json.dumps({f"{i}:\\": i for i in range(names)}).encode()) is refused
        assert refused_as_too_many(json.dumps([{"a": 0}] * names).encode()) is refused


def test_what_is_in_strings_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_size, "MAX_VALUES", 1000)
    monkeypatch.setattr(json_size, "MAX_NAMES", 1000)
    for text in (",[{" * 1000, '",' * 1000, '\\",[' * 1000, '":' * 1001):
        assert not refused_as_too_many(json.dumps({"prompt": text, "n": [1, {}]}).encode())


def test_a_body_of_nothing_but_values_is_refused_unread(front: Front) -> None:
    """Read, the largest would take seconds in which nobody else is served."""
    raw = b'{"prompt": "hi", "tools": [' + b"[]," * 5_000_000 + b"0]}"
    response = front.http.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("The body has more than 1114112 values")


@given(data=st.dictionaries(st.text(), st.lists(st.text() | st.integers())), ascii=st.booleans())
def test_every_other_body_is_read_as_it_stands(data: dict[str, Any], ascii: bool) -> None:
    assert read_json(json.dumps(data, ensure_ascii=ascii).encode()) == data


@given(before=st.text(), after=st.text())
def test_no_half_gets_through(before: str, after: str) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        read_json(json.dumps({"x": [before + "\udc00" + after]}).encode())
