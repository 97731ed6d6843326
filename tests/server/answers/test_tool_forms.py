"""Tool calls in every form: what is one, what is not, and that it does not matter how the text was cut."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.server.answers.parts import Answer, AnswerPart, Call, CallBegin, Content
from llmserve.server.answers.tools import FORMS
from llmserve.server.answers.tools.tagged_calls import TaggedCalls

BY_NAME = {form.name: form for form in FORMS}
WEATHER = {
    "city": {"type": "string"},
    "days": {"type": "array"},
    "now": {"anyOf": [{"type": "boolean"}, {"const": None}, {"type": "string"}]},
}
FUNCTIONS = [{"name": "weather", "parameters": {"properties": WEATHER}}, {"name": "weather_at"}, {"name": "f"}]


def parts(form: str, pieces: Iterable[str]) -> list[AnswerPart]:
    parser = BY_NAME[form].parser(FUNCTIONS)
    told = [part for piece in pieces for part in parser.feed(piece)]
    return told + parser.end()


def read(form: str, *pieces: str) -> Answer:
    return Answer.of(parts(form, pieces))


def tagged(name: str, **arguments: str) -> str:
    told = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items())
    return f"<tool_call>{name}\n{told}</tool_call>"


def functional(name: str, **arguments: str) -> str:
    told = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{told}</function>\n</tool_call>"


F = Call("f", "{}")
ONE = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
ODD = '{"a": "}\\"</tool_call>{", "b": [{"c": "\\\\"}], "明": "🌟"}'

CALLS: list[tuple[str, str, str, list[Call]]] = [
    ("hermes", ONE, "", [F]),
    ("hermes", f"I look.\n{ONE}\n", "I look.", [F]),
    ("hermes", f"{ONE}\n{ONE}", "", [F, F]),
    ("hermes", f"a {ONE} b {ONE} c", "a b c", [F, F]),
    ("hermes", f'<tool_call>{{"name":"weather","arguments":{ODD}}}</tool_call>', "", [Call("weather", ODD)]),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', "", [Call("other", "{}")]),
    ("hermes", '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>.', ".", [Call("f", '{"x": 1}')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [Call("f", '{"x": 1}')]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [F]),
    ("hermes", '<tool_call>{"arguments": {}, "name": "f"}', "", [F]),  # the end came before the marker
    ("hermes", '<tool_call>{"name": "f", "arguments": {}\n</tool_call>', "", [F]),  # a brace was forgotten
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}\n</tool_c', "", [F]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": [1', "", [Call("f", '{"x": [1')]),
    ("hermes", r'<tool_call>{"arguments": {"明": "\ud800"}, "name": "f"}</tool_call>', "",
     [Call("f", r'{"\u660e": "\ud800"}')]),  # half of a surrogate pair is no text
    ("hermes", r'<tool_call>{"name": "f", "arguments": "{\"明\": \"\ud800\"}"}</tool_call>', "",
     [Call("f", r'{"明": "\ud800"}')]),
    ("llama3", '{"name": "f", "parameters": {}}', "", [F]),
    ("llama3", '\n{"type": "function", "name": "f", "parameters": {}}; {"name":"weather", "parameters": {"x": 1}}', "",
     [F, Call("weather", '{"x": 1}')]),
    ("llama3", 'So:<|python_tag|>{"name": "f", "parameters": {}}', "So:", [F]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "weather", "arguments": {"x": 1}}]', "",
     [F, Call("weather", '{"x": 1}')]),
    ("glm4", 'weather\n{"city": "北京"}', "", [Call("weather", '{"city": "北京"}')]),
    ("glm4", '\nweather_at \n {"x": {}}\n', "", [Call("weather_at", '{"x": {}}')]),
    ("glm4", "I look.\n<|assistant|>f\n{}<|assistant|>f\n{}", "I look.", [F, F]),
    ("chatglm3", "weather\n ```python\ntool_call(city='北京', days=[1, -2], now=True)\n```", "",
     [Call("weather", '{"city": "北京", "days": [1, -2], "now": true}')]),
    ("chatglm3", "\nf\ntool_call()", "", [F]),
    ("chatglm3", "f\n``` tool_call()``` \n<|assistant|>f\ntool_call()", "", [F, F]),
    ("chatglm3", r"f\ntool_call(x='\ud800')".replace(r"\n", "\n"), "", [Call("f", r'{"x": "\ud800"}')]),
    ("glm45", f"I look.\n{tagged('weather', city='北京', days='[1, 2]', now='true')}\n", "I look.",
     [Call("weather", '{"city": "北京", "days": [1, 2], "now": true}')]),
    ("glm45", "<tool_call>f\n</tool_call><tool_call>f</tool_call>", "", [F, F]),
    ("glm45", tagged("weather", city="5", days="five", now="maybe"), "",
     [Call("weather", '{"city": "5", "days": "five", "now": "maybe"}')]),
    ("glm45", tagged("weather_at", x=" a\nb ", y="5", z="NaN"), "",
     [Call("weather_at", '{"x": " a\\nb ", "y": 5, "z": "NaN"}')]),
    ("glm45", tagged("weather_at", x='["\\ud800"]', y="1e999", z="[-1e999]"), "",
     [Call("weather_at", r'{"x": ["\ud800"], "y": "1e999", "z": "[-1e999]"}')]),
    ("glm45", tagged("f", x="<tool_call>"), "", [Call("f", '{"x": "<tool_call>"}')]),
    ("glm45", f"<tool_call> or <tool_call>\n{tagged('f')}", "<tool_call> or <tool_call>", [F]),
    ("glm45", tagged("f", x="1")[: -len("</tool_call>")], "", [Call("f", '{"x": 1}')]),
    ("qwen3_coder", functional("weather", city="北\n京", days='[{"a": 1}]', now="True"), "",
     [Call("weather", '{"city": "北\\n京", "days": [{"a": 1}], "now": true}')]),
    ("qwen3_coder", f"So: {functional('f')}\n{functional('weather', now='None', city='None')}.", "So:.",
     [F, Call("weather", '{"now": null, "city": "None"}')]),
]  # fmt: skip

TEXTS = [
    ("glm45", "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>1"),
    ("glm45", "<tool_call>f\n<arg_key>x</arg_key></tool_call>"),
    ("glm45", "<tool_call></tool_call> <tool_c"),
    ("qwen3_coder", "<tool_call>\n<function=f>\n</tool_call>"),
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=x>\n1\n</function>\n</tool_call>"),
    ("qwen3_coder", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
    ("hermes", ""),
    ("hermes", " a\n"),
    ("hermes", "use <tool_call> and </tool_call>"),
    ("hermes", "<tool_call>\n{broken}\n</tool_call> then <tool_"),
    ("hermes", '<tool_call>{"nome": "f", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": 5}</tool_call>'),
    ("hermes", '<tool_call>{"name": "' + "f" * 1000 + '", "arguments": {}'),
    ("hermes", "<tool_call>" + " " * 1000 + '{"name": "f", "arguments": {}}'),
    ("hermes", '<tool_call>{"a": ' + "[" * 100_000),
    ("hermes", r'<tool_call>{"arguments": {}, "name": "\ud800"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"x": NaN}, "name": "f"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"x": [1e999]}, "name": "f"}</tool_call>'),
    ("llama3", '{"name": "Bob", "parameters": {}}'),  # no tool's name
    ("llama3", '{"city": "Bonn"}'),
    ("llama3", 'Say {"name": "f", "parameters": {}}'),
    ("llama3", '<|python_tag|>brave_search.call(query="f")'),
    ("mistral", "[TOOL_CALLS] f"),
    ("mistral", 'It is {"name": "f", "arguments": {}}'),
    ("glm4", "\n你好\n"),
    ("glm4", "weather is a word"),
    ("glm4", "f\nis a letter"),
    ("glm4", 'other\n{"x": 1}'),
    ("chatglm3", "f\n```python\ntool_call(open('x'))\n```"),
    ("chatglm3", "f\n```python\ntool_call(1)\n```"),
    ("chatglm3", "f\n```python\ntool_call(**{'x': 1})\n```"),
    ("chatglm3", "f\ntool_call(x=1e999)"),  # no number that JSON has
    ("chatglm3", "f\n```python\nprint(1)\n```"),
    ("chatglm3", "f\ntool_call() # and more"),
    ("chatglm3", "f\ntool_call(x=" + "(" * 10_000 + ")"),
]


@pytest.mark.parametrize("form, text, content, calls", CALLS)
def test_calls_are_told_apart_from_what_is_said(form: str, text: str, content: str, calls: list[Call]) -> None:
    assert read(form, text) == read(form, *text) == Answer(content=content, calls=calls)


@pytest.mark.parametrize("form, text", TEXTS)
def test_what_is_no_call_is_content_to_the_last_character(form: str, text: str) -> None:
    assert read(form, text) == read(form, *text) == Answer(content=text)


def test_a_call_that_goes_on_badly_is_content_from_there() -> None:
    good = '{"name": "f", "parameters": {}}'
    assert read("llama3", f"{good}; and so") == Answer(content="; and so", calls=[F])
    assert read("mistral", f"[TOOL_CALLS][{good}, x]") == Answer(content=", x]", calls=[F])


PIECES = {
    "hermes": ["<tool_call>", "</tool_call>", '{"name": "f", "arguments": ', '{"name":', "<tool_call>\n{"],
    "llama3": ["<|python_tag|>", '{"name": "f", "parameters": ', '{"type": "function", "name": "weather", ', "; ", ";"],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS] [", '{"name": "f", "arguments": ', ", ", "]", "["],
    "glm4": ["weather\n", "f\n", "weather", "_at\n", "<|assistant|>", "\n"],
    "glm45": ["<tool_call>", "</tool_call>", "f\n", "<arg_key>a</arg_key>", "<arg_value>", "</arg_value>", tagged("f")],
    "qwen3_coder": ["<tool_call>\n", "</tool_call>", "<function=f>\n", "</function>", "<parameter=a>", "</parameter>"],
    "chatglm3": ["weather\n", "f\n", "```python\n", "tool_call(x='a')", "tool_call(", "\n```", "<|assistant|>"],
}
COMMON = ["{", "}", "{}", '{"x": 1}', "}}", '"', "\\", " ", "\n", "a", "明", "<", "name", '{"a": "b}"}']


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A form, a text that looks like its calls, and the text in pieces."""
    form = draw(st.sampled_from(sorted(PIECES)))
    text = "".join(draw(st.lists(st.sampled_from(PIECES[form] * 2 + COMMON), max_size=14)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return form, text, [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=1500, deadline=None)
@given(cut_texts())
def test_how_a_text_is_cut_does_not_matter(case: tuple[str, str, list[str]]) -> None:
    form, text, pieces = case
    whole = read(form, text)
    assert read(form, *pieces) == whole
    assert read(form, *text) == whole
    told = parts(form, pieces)
    for part in told:
        assert not isinstance(part, Content) or text.startswith(part.text, part.at)
    assert [part.index for part in told if isinstance(part, CallBegin)] == list(range(len(whole.calls)))
    if not whole.calls:
        # The one mark that is left out between two answers, whichever they are.
        assert whole.content == (text.replace("<|assistant|>", "") if form in ("glm4", "chatglm3") else text)
    for call in whole.calls:
        assert form in ("chatglm3", "glm45", "qwen3_coder") or call.arguments in text


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["hermes", "llama3", "mistral", "glm4"]),
    st.dictionaries(st.text(max_size=5), st.recursive(st.integers() | st.text(max_size=8), st.lists), max_size=3),
)
def test_arguments_arrive_as_they_were_written(form: str, arguments: dict[str, object]) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    text = {
        "hermes": f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>',
        "llama3": f'{{"name": "f", "parameters": {written}}}',
        "mistral": f'[TOOL_CALLS] [{{"name": "f", "arguments": {written}}}]',
        "glm4": f"f\n{written}",
    }[form]
    assert read(form, *text) == Answer(calls=[Call("f", written)])


@pytest.mark.parametrize("form", sorted(BY_NAME))
def test_content_is_told_at_once(form: str) -> None:
    parser = BY_NAME[form].parser(FUNCTIONS)
    assert [*parser.feed("Well:"), *parser.feed(" so <")] == [
        Content("Well:"),
        Content(" so" if form != "mistral" else " so <"),
    ]


@pytest.mark.parametrize("space", [" ", "\n", "```", " ```"])
def test_space_behind_a_call_is_read_once(space: str) -> None:
    """Tried from each of its characters, it would take hours."""
    text = "f\ntool_call()" + space * 1_000_000 + "x"
    assert read("chatglm3", text) == Answer(content=text)


@pytest.mark.parametrize("end", ["", "</tool_call>", "</arg_value>x</tool_call>", "</arg_value>x"])
def test_what_stands_behind_many_markers_is_not_read_again_for_each(end: str) -> None:
    sizes: list[int] = []

    def reading(text: str) -> None:
        sizes.append(len(text))

    text = "<tool_call>f<arg_key>a</arg_key><arg_value>" * 1000 + end
    parser = TaggedCalls(reading, FUNCTIONS)
    assert Answer.of([*parser.feed(text), *parser.end()]) == read("glm45", text) == Answer(content=text)
    assert sum(sizes) < 2 * len(text)
