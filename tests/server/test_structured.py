"""response_format and structured_outputs: which grammar an answer gets, and what is refused, by its name and soon."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Any

import pytest

from llmserve.engine.messages import Submit
from llmserve.errors import RequestError
from llmserve.grammar import Grammar, Library, Vocabulary
from llmserve.request import SamplingParams
from llmserve.server import grammars

from .conftest import END, TOKENIZER, VOCAB, Front, running_front

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
LIBRARY = Library(lambda: Vocabulary.of(TOKENIZER, VOCAB))


def follows(grammar: str, text: str) -> bool:
    """Whether an answer may be this text, whole, and end there."""
    read: Grammar = LIBRARY.thread.submit(LIBRARY.grammar, grammar).result()
    matcher = read.matcher()
    for byte in text.encode():
        token = next(id for id in range(VOCAB) if TOKENIZER.token_bytes(id) == bytes([byte]))
        try:
            matcher.advance(token)
        except RequestError:
            return False
    return bool(matcher.allowed([END])[END >> 3] >> (END & 7) & 1)


def sampling(front: Front) -> SamplingParams:
    submit: Submit = front.engine.seen(Submit)
    return submit.request.sampling


ASKED: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"response_format": {"type": "json_object"}}, ['{"b": [1, null]}', "{}"], ["[1]", '{"b": }', "x"]),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": OBJECT, "strict": True}}},
        ['{"a": 1}', '{"a":-20}', '{\n  "a": 7\n}'],
        ['{"a": "x"}', '{"a": 1, "b": 2}', "{}"],
    ),
    ({"structured_outputs": {"json": OBJECT}}, ['{"a": 1}'], ["{}"]),
    ({"structured_outputs": {"json": json.dumps(OBJECT)}}, ['{"a": 1}'], ["{}"]),
    ({"structured_outputs": {"json_object": True, "regex": None}}, ["{}"], ["1"]),
    ({"structured_outputs": {"regex": r"[a-c]{2}\d"}}, ["ab1"], ["ab", "abc1", "xb1"]),
    ({"structured_outputs": {"choice": ["yes", 'n"o', "明月"]}}, ["yes", 'n"o', "明月"], ["no", "ye", "yes "]),
    ({"structured_outputs": {"grammar": 'start: "a" b\nb: "b"*'}}, ["a", "abb"], ["b", "aa"]),
]


@pytest.mark.parametrize("body, good, bad", ASKED, ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")
def test_the_engine_gets_a_grammar_of_what_was_asked_for(
    front: Front, body: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    front.complete(**body)
    grammar = sampling(front).grammar
    assert grammar is not None
    assert [text for text in good if not follows(grammar, text)] == []
    assert [text for text in bad if follows(grammar, text)] == []


@pytest.mark.parametrize(
    "body",
    [{"response_format": {"type": "text"}}, {"response_format": None}, {"structured_outputs": None},
     {"structured_outputs": {}}, {"structured_outputs": {"json": None, "disable_any_whitespace": False}}],
    ids=str,
)  # fmt: skip
def test_what_asks_for_no_form_makes_no_grammar(front: Front, body: dict[str, Any]) -> None:
    front.complete(**body)
    assert sampling(front).grammar is None


def test_a_chat_and_all_its_choices_get_the_grammar(front: Front) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 2, "response_format": {"type": "json_object"}}
    assert front.post("/v1/chat/completions", **body).status_code == 200
    sent = [m.request.sampling.grammar for m in front.engine.received if isinstance(m, Submit)]
    assert len(sent) == 2
    assert sent[0] == sent[1] == grammars.json_object()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "body, param",
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "more": 1}}, "response_format.more"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1.5}}},
            "response_format.json_schema.strict",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
            "response_format",
        ),
        ({"structured_outputs": 1}, "structured_outputs"),
        ({"structured_outputs": {"json": OBJECT, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"dependentRequired": {"a": ["b"]}}}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": nested(150)}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"$ref": "#"}}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"json": {"patternProperties": {f"{i}.*": {} for i in range(65)}}}},
            "structured_outputs.json",
        ),
        ({"structured_outputs": {"regex": "\ud800"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {"enum": ["x" * 300_000]}}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "(" * 5000 + "a" + ")" * 5000}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["x"] * 1001}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "start: nowhere"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"grammar": "start: <|nothing|>"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"grammar": "start: " + "(" * 50_000}}, "structured_outputs.grammar"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex",
        ),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_used_is_refused_by_its_name(front: Front, body: dict[str, Any], param: str) -> None:
    error = front.refused(**body)
    assert error["param"] == param
    assert len(error["message"]) <= 1000
    assert not front.engine.received


def test_what_was_refused_is_not_read_again(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"structured_outputs": {"regex": "(?=a)b"}}
    first = front.refused(**asked)
    monkeypatch.setattr(Library, "grammar", lambda *_: pytest.fail("it was read again"))
    assert front.refused(**asked) == first


def test_grammars_that_wait_to_be_read_are_bounded(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "MAX_UNREAD", 0)
    response = front.post("/v1/completions", prompt="x", structured_outputs={"regex": "ab"})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "grammar_queue_full")
    assert int(response.headers["retry-after"]) > 0


def test_rules_that_name_each_other_without_end_are_no_matter_of_the_stack(front: Front) -> None:
    chain = "start: r0\n" + "\n".join(f'r{i}: r{i + 1} "a"' for i in range(8000)) + '\nr8000: "a"'
    front.complete(structured_outputs={"grammar": chain})


def test_a_grammar_that_takes_long_to_read_holds_up_nobody(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    go, done, read = threading.Event(), threading.Event(), Library.grammar

    def slowly(library: Library, text: str) -> Grammar:
        assert go.wait(60)
        return read(library, text)

    def ask() -> None:
        front.complete(structured_outputs={"regex": "some text"})
        done.set()

    monkeypatch.setattr(Library, "grammar", slowly)
    threading.Thread(target=ask).start()
    for _ in range(3):
        front.complete(max_tokens=1)
    assert not done.is_set()
    go.set()
    assert done.wait(60)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_calls_time_passes_also_while_its_grammar_is_read(
    front: Front, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that nobody waits for any more is not read."""
    go, read, texts = threading.Event(), Library.grammar, []

    def slowly(library: Library, text: str) -> Grammar:
        texts.append(text)
        assert go.wait(60)
        return read(library, text)

    monkeypatch.setattr(Library, "grammar", slowly)
    asked = {"prompt": "hi"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "hi"}]}

    def too_late(pattern: str) -> None:
        response = front.post(path, **asked, structured_outputs={"regex": path + pattern}, timeout=0.05)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        assert response.json()["error"]["param"] == "timeout"

    firsts = (f"first{i}" for i in itertools.count())
    while not texts:  # its time may be up also before it is begun
        too_late(next(firsts))
    too_late("second")
    go.set()
    front.complete(structured_outputs={"regex": path + "third"})
    first, third = texts
    assert "first" in first
    assert "third" in third
    assert len([message for message in front.engine.received if isinstance(message, Submit)]) == 1


def test_the_engine_is_told_of_the_time_that_is_left(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Library.grammar

    def slowly(library: Library, text: str) -> Grammar:
        time.sleep(0.1)
        return read(library, text)

    monkeypatch.setattr(Library, "grammar", slowly)
    front.complete(structured_outputs={"regex": "of some time"}, timeout=50)
    assert 0 < front.engine.seen(Submit).request.timeout <= 49.95  # the loop's clock counts in milliseconds


def test_a_refusal_is_ours_and_what_the_library_says_is_short_and_readable(front: Front) -> None:
    for asked in ({"regex": "(?=a)b"}, {"grammar": "start: nowhere"}, {"grammar": "start: \x00\x1b[31m" + "ä" * 5000}):
        error = front.refused(structured_outputs=asked)
        ours, _, theirs = error["message"].partition(" What its reader says: ")
        assert ours == f"{error['param']} asks for a form that no answer can be held to here; change it."
        assert theirs
        assert theirs.isprintable()
        assert len(theirs) <= 301


LOOKAROUND = "look-around, including look-ahead and look-behind, is not supported."


@pytest.mark.parametrize(
    "pattern, reason",
    [
        ("(?=a)b", f'at 1(8): invalid regex "(?=a)b" (in regex): regex parse error: {LOOKAROUND}'),
        ("error: (?=a)", LOOKAROUND),
        ("x\nerror: x(?=a)", LOOKAROUND),
        ("(?=a)" + "y" * 5000, LOOKAROUND),
        ("(a", "unclosed group."),
    ],
)
def test_a_regular_expression_is_refused_with_the_reason(front: Front, pattern: str, reason: str) -> None:
    error = front.refused(structured_outputs={"regex": pattern})
    said = error["message"].partition(" What its reader says: ")[2]
    assert said.endswith(reason)
    assert 0 < len(said) <= 301


def test_a_pattern_of_a_schema_is_refused_with_the_reason(front: Front) -> None:
    schema = {"type": "string", "pattern": "x\nerror: x(?=a)"}
    error = front.refused(structured_outputs={"json": schema})
    assert error["message"].endswith(f"regex parse error: {LOOKAROUND}")


def test_a_form_that_no_answer_has_is_told_as_that(front: Front) -> None:
    error = front.refused(structured_outputs={"grammar": "start: start"})
    assert error["message"].endswith("What its reader says: no token of this model can come next.")


def test_without_a_tokenizer_there_are_no_grammars(endpoint: str) -> None:
    with running_front(endpoint, tokenizer=None) as front:
        error = front.refused(prompt=[1], response_format={"type": "json_object"})
        assert error["param"] == "response_format"
