"""schemathesis against our own description of the API, and our answers against OpenAI's published one.

`--full` sends about two thousand requests, where a few dozen are sent otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.shared import shared

from .conftest import Front
from .test_completions import BODIES

HI = [{"role": "user", "content": "hi"}]
EXAMPLES, FULL = 3, 125
"""Of each operation."""


def operations(schema: Any) -> Iterator[APIOperation]:
    for result in schema.get_all_operations():
        yield result.ok()


def try_all(schema: Any, examples: int) -> Counter[str]:
    """How often each status came, by operation."""
    seen: Counter[str] = Counter()
    for operation in operations(schema):
        seen += Counter(f"{operation.label} {status}" for status in statuses(operation, examples))
    print(sum(seen.values()), "requests:", *(f"\n{count:5} {what}" for what, count in sorted(seen.items())))
    return seen


def statuses(operation: APIOperation, examples: int) -> list[int]:
    seen = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(), data=st.data())
    def answered(case: Case, data: st.DataObject) -> None:
        if data.draw(st.booleans(), "asks for what there is"):
            simplify(case, data)
        response = case.call()
        seen.append(response.status_code)
        checks: list[Any] = []
        if not (response.status_code == 504 and response.json()["error"]["code"] == "timeout"):  # it may be any
            checks.append(not_a_server_error)
        if not (isinstance(case.body, dict) and case.body.get("encoding_format") == "base64"):
            checks.append(response_schema_conformance)  # OpenAI's description knows vectors of floats only
        case.validate_response(response, checks=checks)

    answered()
    return seen


def simplify(case: Case, data: st.DataObject) -> None:
    """The model that is served, and few parameters: so that more is asked than what is refused at once."""
    if "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = "tiny"
    if isinstance(case.body, dict):
        needed = {"prompt", "messages", "input", "inputs", "text_input", "tokens"}
        others = sorted(case.body.keys() - needed - {"model"})
        kept = data.draw(st.sets(st.sampled_from(others), max_size=2)) if others else set()
        case.body = {name: value for name, value in case.body.items() if name in needed | kept}
        if "messages" in case.body:
            case.body["messages"] = HI
        if "inputs" in case.body and data.draw(st.booleans()):
            case.body["inputs"] = [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]


@pytest.mark.timeout(1800)  # of --full
def test_nothing_that_our_description_allows_is_a_server_error(front: Front, full: bool) -> None:
    schema = schemathesis.openapi.from_url(f"{front.url}/openapi.json")
    seen = try_all(schema, FULL if full else EXAMPLES)
    assert {label.rpartition(" ")[0] for label in seen} == {operation.label for operation in operations(schema)}
    assert {"/v1/embeddings", "/v2/models/{model}/infer", "/tokenize"} <= {o.path for o in operations(schema)}


@pytest.fixture
def theirs(front: Front) -> Any:
    schema = schemathesis.openapi.from_dict(json.loads(shared("clients/openai_subset.json").read_text("utf-8")))
    schema.config.update(base_url=f"{front.url}/v1")
    return schema


@pytest.mark.timeout(1800)
def test_nothing_that_openai_describes_is_a_server_error(theirs: Any, full: bool) -> None:
    assert try_all(theirs, FULL if full else EXAMPLES)


def conforms(theirs: Any, path: str, body: dict[str, Any] | None = None) -> None:
    operation = theirs[path]["GET" if body is None else "POST"]
    case = operation.Case(**({} if body is None else {"body": body, "media_type": "application/json"}))
    response = case.call()
    assert response.status_code == 200, response.text
    case.validate_response(response, checks=[response_schema_conformance])


@pytest.mark.parametrize("name", BODIES)
def test_a_completion_is_what_openai_describes(theirs: Any, name: str) -> None:
    conforms(theirs, "/completions", {"model": "tiny", "prompt": "hi", "seed": 0, **BODIES[name]})


@pytest.mark.parametrize("name", [name for name in BODIES if "prompt" not in BODIES[name]])
def test_a_chat_is_what_openai_describes(theirs: Any, name: str) -> None:
    body = {**BODIES[name]}
    if "logprobs" in body:
        body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    conforms(theirs, "/chat/completions", {"model": "tiny", "messages": HI, "seed": 0, **body})


def test_models_and_embeddings_are_what_openai_describes(theirs: Any) -> None:
    conforms(theirs, "/models")
    for given_ in ("hi", ["a", "b"], [1, 2], [[1], [2, 3]]):
        conforms(theirs, "/embeddings", {"model": "tiny", "input": given_})
