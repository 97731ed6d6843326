"""Strings that no text can be are refused wherever they stand, before anything is asked of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import RequestError
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


@given(data=st.dictionaries(st.text(), st.lists(st.text() | st.integers())), ascii=st.booleans())
def test_every_other_body_is_read_as_it_stands(data: dict[str, Any], ascii: bool) -> None:
    assert read_json(json.dumps(data, ensure_ascii=ascii).encode()) == data


@given(before=st.text(), after=st.text())
def test_no_half_gets_through(before: str, after: str) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        read_json(json.dumps({"x": [before + "\udc00" + after]}).encode())
