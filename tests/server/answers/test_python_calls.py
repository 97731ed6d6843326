"""Calls of tools that are Python: what a grammar lets through is read again, and is as the tool's schema says."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from llmserve.errors import RequestError
from llmserve.grammar import Grammar, Matcher, Vocabulary
from llmserve.server.answers.parts import Answer
from llmserve.server.answers.tools.chatglm3 import ChatGLM3
from llmserve.server.grammars import lark

from ..conftest import END, TOKENIZER, VOCAB

VOCABULARY = Vocabulary.of(TOKENIZER, VOCAB)
ENDS = frozenset(TOKENIZER.encode("'\"]}),`", add_special_tokens=False))
MOST = 4000

SCHEMAS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "types": {
        "properties": {"s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
                       "b": {"type": "boolean"}, "z": {"type": ["null", "boolean"]}},
        "required": ["b", "n"],
    },
    "required last": {
        "properties": {"a": {"type": "integer"}, "b": {"const": [1, None]}, "c": {"type": "boolean"}},
        "required": ["c"],
    },
    "bounds": {
        "properties": {"s": {"type": "string", "minLength": 2, "maxLength": 4},
                       "i": {"type": "integer", "minimum": -3, "exclusiveMaximum": 99},
                       "n": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
                       "l": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
                       "e": {"type": "array", "maxItems": 0}},
        "required": ["s", "i", "n", "l", "e"],
    },
    "one bound": {
        "properties": {"l": {"type": "integer", "minimum": 5}, "m": {"type": "integer", "exclusiveMaximum": -5},
                       "n": {"type": "number", "minimum": 0.5}, "d": {"type": "integer", "multipleOf": 3}},
        "required": ["l", "m", "n", "d"],
    },
    "patterns": {
        "properties": {"p": {"type": "string", "pattern": "^[a-z\"\\\\/']{3,5}\\n?$"}, "d": {"format": "date"}},
        "required": ["p", "d"],
    },
    "values": {
        "properties": {"e": {"enum": ["it's", 'a "b"', "明\n", 1.5, True, None, {"a": [1]}]},
                       "t": {"type": "string", "enum": ["x", 1]}},
        "required": ["e", "t"],
    },
    "objects": {
        "properties": {
            "o": {"properties": {"max-results": {"type": "integer"}, "it's": {}}, "required": ["it's"],
                  "additionalProperties": False},
            "m": {"type": "object", "additionalProperties": {"type": "integer"}},
            "e": {"type": "object", "additionalProperties": False},
            "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["o", "m", "e", "u", "more"],
        "additionalProperties": {"type": "boolean"},
    },
    "references": {
        "$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer"}, "left": {"$ref": "#/$defs/tree"}},
                           "required": ["v"], "additionalProperties": False}},
        "properties": {"root": {"$ref": "#/$defs/tree", "description": "…"}},
        "required": ["root"],
    },
}  # fmt: skip


def written(schema: dict[str, Any], seed: int) -> str:
    """What a model writes that knows nothing but what it may, and comes to an end."""
    functions = [{"name": "f", "parameters": {"type": "object", **schema}}]
    rules = ChatGLM3().calls(functions, {}, many=False)
    matcher = Grammar(lark("\n".join(["start: answer", *rules])), VOCABULARY).matcher()
    chance, tokens = random.Random(seed), []
    while not matcher.complete and len(tokens) < MOST:
        mask = matcher.allowed([END])
        allowed = [id for id in range(VOCAB) if mask[id >> 3] >> (id & 7) & 1]
        preferred = [id for id in allowed if id in ENDS] if chance.random() < 0.5 else []
        tokens.append(chance.choice(preferred or allowed))
        if tokens[-1] == END:
            break
        matcher.advance(tokens[-1])
    return TOKENIZER.decode(tokens)


@pytest.mark.parametrize("name", SCHEMAS)
def test_calls_are_read_again_and_as_the_schema_says(name: str) -> None:
    told = set()
    for seed in range(6):
        text = written(SCHEMAS[name], seed)
        parser = ChatGLM3().parser([{"name": "f"}])
        answer = Answer.of([*parser.feed(text), *parser.end()])
        assert not answer.content, text
        [call] = answer.calls
        jsonschema.validate(json.loads(call.arguments), {"type": "object", **SCHEMAS[name]})
        told.add(call.arguments)
    assert len(told) > 1 or name == "nothing"


def follow(matcher: Matcher, text: str) -> None:
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        matcher.advance(token)


@pytest.mark.parametrize("schema", [{"minimum": 5}, {"exclusiveMinimum": 0.5}, {"maximum": 5}, {"multipleOf": 3}])
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_no_number_has_more_digits_than_python_reads(kind: str, schema: dict[str, Any]) -> None:
    function = {"name": "f", "parameters": {"properties": {"x": {"type": kind, **schema}}, "required": ["x"]}}
    rules = ChatGLM3().calls([function], {}, many=False)
    matcher = Grammar(lark("\n".join(["start: answer", *rules])), VOCABULARY).matcher()
    sign = "-" if "maximum" in schema else ""
    follow(matcher, f"f\n```python\ntool_call(x={sign}999999")
    with pytest.raises(RequestError):
        follow(matcher, "9" * 100)


@pytest.mark.parametrize(
    "schema, told",
    [
        ({"properties": {"max-results": {}}}, "'max-results', which is no name"),
        ({"properties": {"from": {}}}, "'from', which is no name"),
        ({"properties": {"a=0, b": {}}}, "'a=0, b', which is no name"),
        ({"properties": {"ﬁ": {}}}, "'ﬁ', which is no name"),  # Python takes it for fi
        ({"properties": {"x": {"oneOf": [{}]}}}, "f.x has 'oneOf'"),
        ({"properties": {"x": {"items": {"not": {}}}}}, "f.x.items has 'not'"),
        ({"properties": {"x": {"type": "thing"}}}, "f.x has type 'thing'"),
        ({"properties": {"x": {"enum": []}}}, "f.x.enum has []"),
        ({"properties": {"x": {"type": "string", "const": 1}}}, "f.x has no value"),
        ({"properties": {"x": {"$ref": "#/$defs/no"}}}, "f.x has $ref '#/$defs/no'"),
        ({"properties": {"x": {"type": "array", "minItems": 3, "maxItems": 2}}}, "f.x has minItems 3 and maxItems 2"),
        ({"properties": {}, "required": ["x"], "additionalProperties": False}, "f.x has False as a schema"),
        ({"minProperties": 1}, "f has 'minProperties'"),
        ({"type": "array"}, "f has another type than object"),
        ({"properties": {"x": {"enum": ["x" * 1000] * 1000}}}, "shorten it"),
    ],
)
def test_what_python_or_we_cannot_say_is_named(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError) as refused:
        ChatGLM3().calls([{"name": "f", "parameters": schema}], {}, many=False)
    assert told in str(refused.value)
    assert refused.value.param == "tools"


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="nested too deeply"):
        ChatGLM3().calls([{"name": "f", "parameters": {"properties": {"x": schema}}}], {}, many=False)
