"""What is made of the grammar library: masks that end where answers may, and bounds that hold whatever is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmserve import grammar
from llmserve.errors import RequestError
from llmserve.grammar import MAX_BYTES, Library, Matcher, Vocabulary
from llmserve.server.grammars import choice, inline_schema, json_object, json_schema, lark, literal, regex

TOKENS = [b"<end>", b"<tool>", b"", *(bytes([b]) for b in range(10, 127)), b"ab", b"true", b'{"', "é".encode()]
END, TOOL, NOTHING = 0, 1, 2
ID = {text: id for id, text in enumerate(TOKENS)}


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(lambda: Vocabulary(TOKENS, [END, TOOL]))


def begin(library: Library, text: str) -> Matcher:
    return library.thread.submit(library.grammar, text).result().matcher()


def next_tokens(matcher: Matcher, ends: tuple[int, ...] = (END,)) -> set[int]:
    mask = matcher.allowed(ends)
    assert len(mask) % 4 == 0
    assert len(mask) * 8 >= len(TOKENS)
    return {id for id in range(8 * len(mask)) if mask[id >> 3] >> (id & 7) & 1}


def write(matcher: Matcher, text: bytes) -> Matcher:
    for byte in text:
        matcher.advance(ID[bytes([byte])])
    return matcher


def test_a_mask_has_every_token_that_fits_and_the_end_where_it_may_be(library: Library) -> None:
    matcher = begin(library, regex("a?b?é?"))
    assert next_tokens(matcher) == {ID[b"a"], ID[b"b"], ID[b"ab"], ID["é".encode()], END}
    matcher.advance(ID[b"ab"])
    assert next_tokens(matcher) == {ID["é".encode()], END}
    assert not matcher.complete
    matcher.advance(ID["é".encode()])
    assert next_tokens(matcher) == {END}
    assert matcher.complete


def test_what_ends_an_answer_is_for_each_to_say(library: Library) -> None:
    matcher = begin(library, choice(["a"]))
    assert next_tokens(matcher, (END, ID[b"z"])) == {ID[b"a"]}
    matcher.advance(ID[b"a"])
    assert next_tokens(matcher, (END, ID[b"z"])) == {END, ID[b"z"]}
    assert next_tokens(matcher, ()) == set()


def test_tokens_that_are_no_text_come_only_where_a_grammar_names_them(library: Library) -> None:
    assert not {END, TOOL, NOTHING} & next_tokens(begin(library, regex("(?s:.)+")))
    matcher = begin(library, lark('start: <tool> "a"'))
    assert next_tokens(matcher) == {TOOL}
    matcher.advance(TOOL)
    assert next_tokens(matcher) == {ID[b"a"]}


def test_answers_know_nothing_of_each_other(library: Library) -> None:
    first, second = (begin(library, choice(["ax", "by"])) for _ in range(2))
    first.advance(ID[b"a"])
    assert next_tokens(first) == {ID[b"x"]}
    assert next_tokens(second) == {ID[b"a"], ID[b"b"]}


def test_what_no_grammar_allowed_is_an_error(library: Library) -> None:
    with pytest.raises(RequestError, match="cannot be followed further"):
        begin(library, choice(["a"])).advance(ID[b"b"])


@pytest.mark.parametrize("text", ['a"b\\c', "/x/", "é\n", "// no # comment", "<tool>", "{1}"])
def test_a_literal_is_the_text(library: Library, text: str) -> None:
    matcher = begin(library, lark(f"start: {literal('ab' + text)}"))
    matcher.advance(ID[b"ab"])
    for char in text:
        matcher.advance(ID[char.encode()])
    assert next_tokens(matcher) == {END}


def test_text_and_json_mix_as_tool_calls_want_it(library: Library) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    calls = lark(
        f"start: call* text\ntext: /(.|\\n)*/\nhead[lazy]: /(.|\\n)*/ {literal('[call]')}\n"
        f"call: head arguments {literal('[done]')}\narguments: {inline_schema(schema)}"
    )
    assert END in next_tokens(write(begin(library, calls), b"only text"))
    inside = write(begin(library, calls), b'text [call]{"x": 1')
    assert END not in next_tokens(inside)
    assert END in next_tokens(write(inside, b"}[done] and"))
    with pytest.raises(RequestError):
        write(begin(library, calls), b'[call]{"y"')


def test_whitespace_is_bounded(library: Library) -> None:
    text = b'{"a": [1,\n    2]\n}'
    assert next_tokens(write(begin(library, json_object()), text)) == {END}
    for endless in (b'{"a":  ', b'{"a":\n\n', b"{\n" + b" " * 41):
        with pytest.raises(RequestError):
            write(begin(library, json_object()), endless)
    own = json_schema({"type": "object", "x-guidance": {"whitespace_pattern": " *"}})
    with pytest.raises(RequestError):
        write(begin(library, own), b'{"a":  ')


def nested(depth: int) -> str:
    return '{"grammars": [{"json_schema": ' + '{"items": ' * depth + "{}" + "}" * depth + "}]}"


UNUSABLE: dict[str, Callable[[], str]] = {
    "too long": lambda: choice(["x" * MAX_BYTES]),
    "too deep": lambda: nested(20_000),
    "not satisfiable": lambda: json_schema({"$ref": "#"}),
    "false": lambda: json_schema(False),
    "no such type": lambda: json_schema({"type": "thing"}),
    "not known": lambda: json_schema({"dependentRequired": {"a": ["b"]}}),
    "no regex": lambda: regex("(a"),
    "lookahead": lambda: regex("(?=a)b"),
    "nested regex": lambda: regex("(" * 5000 + "a" + ")" * 5000),
    "nested Lark": lambda: lark("start: " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "doubling": lambda: lark("start: R0\n" + "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(40)) + '\nR40: "a"'),
    "too many properties": lambda: json_schema({"properties": {f"p{i}": {} for i in range(6000)}}),
    "cases multiplied": lambda: json_schema(
        {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(4)]} for i in range(20)]}
    ),
    "no such token": lambda: lark("start: <|nothing|>"),
    "no grammar": lambda: "nonsense",
    "no text": lambda: "",
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_one_sentence_and_no_crash(library: Library, case: str) -> None:
    with pytest.raises(RequestError) as raised:
        begin(library, UNUSABLE[case]())
    message = str(raised.value)
    assert len(message) < 400
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        lark("start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(15_000)) + '\nr15000: "a"'),
        lark("start: R0\n" + "\n".join(f"R{i}: R{i + 1}" for i in range(15_000)) + '\nR15000: "a"'),
        json_schema({"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)} | {"d5000": {"const": 1}},
                     "$ref": "#/$defs/d0"}),
    ],
    ids=["rules", "terminals", "references"],
)  # fmt: skip
def test_names_of_names_take_no_more_stack_than_there_is(library: Library, text: str) -> None:
    assert next_tokens(begin(library, text))


def test_reading_takes_no_more_time_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "MAX_READING", 0.0)
    with pytest.raises(RequestError, match=r"takes \d+\.\d s to read, and at most 0 s"):
        begin(Library(lambda: Vocabulary(TOKENS, [END])), choice(["a"]))


def test_what_was_read_is_kept_until_others_were_asked_for_more_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "MAX_KEPT", 2)
    library = Library(lambda: Vocabulary(TOKENS, [END]))
    a, b, c = (choice([text]) for text in "abc")
    first = library.grammar(a)
    library.grammar(b)
    assert library.grammar(a) is first
    second = library.grammar(c)
    assert library.grammar(a) is first
    assert library.grammar(c) is second
    assert list(library._read) == [a, c]
    assert library.kept(a) is first
    assert list(library._read) == [c, a]
    assert library.kept(b) is None


def test_the_vocabulary_is_read_once_and_only_for_a_grammar() -> None:
    asked: list[int] = []

    def read() -> Vocabulary:
        asked.append(1)
        return Vocabulary(TOKENS, [END])

    library = Library(read)
    assert isinstance(library.thread, ThreadPoolExecutor)
    assert not asked
    for text in "abc":
        library.grammar(choice([text]))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "text", [choice(["abé"]), regex("abé"), lark('start: "abé"\n%llguidance {"no_forcing": false}')]
)
def test_a_text_without_an_alternative_may_be_written_in_any_tokens(library: Library, text: str) -> None:
    assert next_tokens(begin(library, text)) == {ID[b"a"], ID[b"ab"]}


def test_a_grammar_that_forces_tokens_is_refused(library: Library) -> None:
    """How the model would write a text is nothing that this side of a request knows."""
    with pytest.raises(RequestError, match="nothing that the grammar library can follow"):
        begin(library, json.dumps({"grammars": [{"lark_grammar": 'start: "abc"'}]}))


def test_the_name_of_a_special_token_is_text_like_any_other(library: Library) -> None:
    """Written by that token, it would end the answer in the middle of its form."""
    for text in (choice(["a<end>b"]), json_schema({"const": "<end>"})):
        matcher = begin(library, text)
        for _ in range(3):
            ids = next_tokens(matcher)
            assert END not in ids
            matcher.advance(min(ids))


def test_json_text_in_place_of_a_schema_is_no_grammar(library: Library) -> None:
    with pytest.raises(RequestError):
        begin(library, json.dumps({"type": "object"}))
