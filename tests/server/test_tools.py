"""Tool calls and reasoning on /v1/chat/completions; how they are told apart, `answers` tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.config import ServerConfig
from llmserve.engine.messages import Submit
from llmserve.errors import ConfigError, RequestError
from llmserve.grammar import Grammar, Vocabulary
from llmserve.server.app import create_app
from llmserve.server.protocol.tools import NamedTool, ToolChoice, tool_use

from .chunks import stream
from .conftest import TOKENIZER, Front, manifest
from .saying import HERMES, THINKING, front_that_says, tokenizer_of

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
STRICT = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
NOT = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"not": {}}}}}}
TOOLS = {"tools": [WEATHER, {"type": "function", "function": {"name": "f"}}]}


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CITY = '{"city": "北京🌟"}'
BOTH = f"I look.\n{call('weather', CITY)}\n{call('f', '{}')}"


def put_together(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The choice of a stream, with `order`: what came, one after the other. Ids of calls are left out."""
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {"message": message, "order": []}
    for part in (part for chunk in chunks for part in chunk["choices"]):
        delta = dict(part["delta"])
        for begun in delta.pop("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if "id" in begun:
                assert begun["index"] == len(calls)
                assert begun["type"] == "function"
                assert begun["function"]["arguments"] == ""
                calls.append({"type": "function", "function": dict(begun["function"])})
            else:
                assert begun.keys() == {"index", "function"}
                assert begun["index"] == len(calls) - 1
                calls[-1]["function"]["arguments"] += begun["function"]["arguments"]
            choice["order"].append("call")
        for name, text in delta.items():
            message[name] = text if message.get(name) is None or name == "role" else message[name] + text
            choice["order"].append(name)
        choice["token_ids"] = choice.get("token_ids", []) + part.get("token_ids", [])
        if part["logprobs"]:
            choice["logprobs"] = choice.get("logprobs", []) + part["logprobs"]["content"]
        choice["finish_reason"] = part["finish_reason"]
    return choice


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{name: value for name, value in each.items() if name != "id"} for each in message.get("tool_calls", ())]
    rest = {name: value for name, value in message.items() if name not in ("tool_calls", "refusal")}
    return {**rest, "tool_calls": calls} if calls else rest


@pytest.mark.parametrize(
    "text, body, finish",
    [
        (BOTH, TOOLS, "tool_calls"),
        (call("f", "{}"), TOOLS, "tool_calls"),
        (BOTH, {**TOOLS, "max_tokens": 60}, "length"),
        (BOTH, {**TOOLS, "stop": "北"}, "tool_calls"),
        (BOTH, {**TOOLS, "parallel_tool_calls": False}, "tool_calls"),
        (BOTH, {**TOOLS, "tool_choice": "none"}, "stop"),
        (BOTH, {}, "stop"),
        ("Hello <tool_call> there", TOOLS, "stop"),
        (f"<think>\nWell 明\n</think>\n\n{BOTH}", TOOLS, "tool_calls"),
        ("<think>Well</think>Hi", {"include_reasoning": False}, "stop"),
        ("<think>Well", {"max_tokens": 9}, "length"),
    ],
)
def test_a_stream_put_together_is_the_whole_answer(endpoint: str, text: str, body: dict[str, Any], finish: str) -> None:
    template = HERMES + "{% if false %}</think>{% endif %}"
    with front_that_says(endpoint, text, template=template) as front:
        for more in ({}, {"logprobs": True, "return_token_ids": True}):
            whole = front.post(CHAT, messages=HI, **body, **more).json()
            chunks = stream(front, CHAT, messages=HI, **body, **more, stream_options={"include_usage": True})
            told = put_together(chunks)
            [choice] = whole["choices"]
            assert told["message"] == without_ids(choice["message"])
            assert told["finish_reason"] == choice["finish_reason"] == finish
            assert chunks[-1]["usage"] == whole["usage"]
            if more:
                assert told["token_ids"] == choice["token_ids"]
                assert told["logprobs"] == choice["logprobs"]["content"]


def test_an_answer_with_calls(endpoint: str) -> None:
    with front_that_says(endpoint, BOTH, call("f", "{}"), "Sunny.") as front:
        [choice] = front.post(CHAT, messages=HI, **TOOLS).json()["choices"]
        assert without_ids(choice["message"]) == {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京🌟"}'}},
                {"type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        }
        ids = [each["id"] for each in choice["message"]["tool_calls"]]
        assert len(set(ids)) == 2
        assert all(id.startswith("call_") for id in ids)
        assert front.post(CHAT, messages=HI, **TOOLS).json()["choices"][0]["message"]["content"] is None
        [choice] = front.post(CHAT, messages=HI, **TOOLS).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Sunny.", "stop")
        assert "tool_calls" not in choice["message"]


def test_arguments_are_streamed_as_they_come(endpoint: str) -> None:
    """The engine stands still in the middle of them."""
    with front_that_says(endpoint, BOTH) as front:
        front.engine.allowance = len(TOKENIZER.encode(BOTH[: BOTH.index("北")], add_special_tokens=False))
        with front.http.stream("POST", CHAT, json={"messages": HI, **TOOLS, "stream": True}) as response:
            chunks = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
            told: list[dict[str, Any]] = []
            while "tool_calls" not in str(told) or put_together(told)["message"]["tool_calls"] != [
                {"type": "function", "function": {"name": "weather", "arguments": '{"city": "'}}
            ]:
                told.append(next(chunks))
            front.engine.allowance = None
            assert put_together([*told, *chunks])["order"][-1] == "call"


def prompt_text(front: Front) -> str:
    return TOKENIZER.decode(front.engine.seen(Submit).request.prompt, skip_special_tokens=False)


def test_calls_results_and_reasoning_are_told_to_the_model(endpoint: str) -> None:
    with front_that_says(endpoint, f"</think>{BOTH}", template=HERMES + THINKING) as front:
        [choice] = front.post(CHAT, messages=HI, **TOOLS).json()["choices"]
        front.engine.received.clear()
        answer = {**choice["message"], "reasoning_content": "Well."}
        id = answer["tool_calls"][0]["id"]
        result = {"role": "tool", "tool_call_id": id, "content": "Sunny."}
        front.post(CHAT, messages=[*HI, answer, result], **TOOLS, chat_template_kwargs={"enable_thinking": False})
        text = prompt_text(front)
        assert text.startswith(json.dumps(WEATHER))
        told = json.dumps(
            {"id": id, "type": "function", "function": {"name": "weather", "arguments": json.loads(CITY)}},
            ensure_ascii=False,
        )
        assert f"assistant: Well. I look.{told}" in text
        assert f"tool:  Sunny.{id}\n" in text
        assert text.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "template, text, content, reasoning, tokens",
    [
        (HERMES + THINKING, "abc\n</think>\n\nHi", "Hi", "abc", 12),
        (HERMES + THINKING, "abc", "", "abc", 3),
        (HERMES, "<think>abc</think>Hi", "<think>abc</think>Hi", None, None),
    ],
)
def test_reasoning(
    endpoint: str, template: str, text: str, content: str, reasoning: str | None, tokens: int | None
) -> None:
    with front_that_says(endpoint, text, template=template) as front:
        answer = front.post(CHAT, messages=HI, max_tokens=len(text)).json()
        assert answer["choices"][0]["message"]["content"] == content
        assert answer["choices"][0]["message"].get("reasoning_content") == reasoning
        assert answer["usage"].get("completion_tokens_details") == (
            None if tokens is None else {"reasoning_tokens": tokens}
        )


def test_parsers_can_be_chosen_and_turned_off(endpoint: str) -> None:
    config = ServerConfig(tool_call_parser="none", reasoning_parser="think")
    with front_that_says(endpoint, f"<think>a</think>{BOTH}", config=config) as front:
        message = front.post(CHAT, messages=HI, **TOOLS).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": BOTH, "reasoning_content": "a", "refusal": None}
    with pytest.raises(ConfigError, match="--tool-call-parser qwen is not known"):
        create_app(front.client, TOKENIZER, manifest(), ServerConfig(tool_call_parser="qwen"))


def test_a_special_token_that_begins_calls_is_seen(endpoint: str) -> None:
    """It is no text where nobody asks for it."""
    text = '<|python_tag|>{"name": "f", "parameters": {}}'
    template = '{{ tools }}<|start_header_id|>"parameters": '
    with front_that_says(endpoint, text, template=template, special=("<|python_tag|>",)) as front:
        [choice] = front.post(CHAT, messages=HI, **TOOLS).json()["choices"]
        assert [each["function"]["name"] for each in choice["message"]["tool_calls"]] == ["f"]
        [choice] = front.post(CHAT, messages=HI).json()["choices"]
        assert choice["message"]["content"] == '{"name": "f", "parameters": {}}'


@pytest.mark.parametrize(
    "body, param",
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({**TOOLS, "tool_choice": "always"}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({**TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a\x00"}}]}, "tools"),
        ({"tools": [WEATHER] * 1025}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"documents": [{"text": "x"}]}, "documents"),
    ],
)
def test_what_cannot_be(endpoint: str, body: dict[str, Any], param: str) -> None:
    with front_that_says(endpoint, "") as front:
        assert front.refused(CHAT, **body)["param"] == param


@pytest.mark.parametrize(
    "tools, choice, message",
    [
        (None, "required", "tool_choice wants a call, and tools is empty; give tools."),
        ([], NamedTool("g"), "tool_choice wants the tool 'g', and tools is empty; give tools."),
        ([WEATHER], NamedTool("g"), "tool_choice wants the tool 'g', and tools does not have it; give it there."),
    ],
)
def test_a_choice_that_tools_do_not_have(tools: Any, choice: ToolChoice, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        tool_use(tools, choice, None)
    assert (str(caught.value), caught.value.param) == (message, "tool_choice")


@pytest.mark.parametrize(
    "parser, special, said",
    [
        ("mistral", ("[TOOL_CALLS]",), '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bonn"}}]'),
        ("chatglm3", (), " weather\n ```python\ntool_call(city='Bonn')\n```"),
    ],
)
def test_calls_are_required_in_the_models_own_form(
    endpoint: str, parser: str, special: tuple[str, ...], said: str
) -> None:
    config = ServerConfig(tool_call_parser=parser)
    with front_that_says(endpoint, said, config=config, special=special) as front:
        for asked in ({"tool_choice": "required"}, {"tools": [STRICT]}):
            front.engine.received.clear()
            [choice] = front.post(CHAT, messages=HI, **{**TOOLS, **asked}).json()["choices"]
            assert without_ids(choice["message"])["tool_calls"] == [
                {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
            ]
            tokenizer = tokenizer_of(HERMES, special)
            text = front.engine.seen(Submit).request.sampling.grammar
            matcher = Grammar(text, Vocabulary.of(tokenizer, tokenizer.vocab_size)).matcher()
            for token in tokenizer.encode(said, add_special_tokens=False):
                matcher.advance(token)
            with pytest.raises(RequestError):
                matcher.advance(tokenizer.encode("x", add_special_tokens=False)[0])
        error = front.refused(CHAT, tools=[NOT], tool_choice="required")
        assert error["param"] in ("tools", "tool_choice")
        assert "not" in error["message"]


def test_what_a_model_has_no_grammar_for(endpoint: str) -> None:
    strict = [{"type": "function", "function": {"name": "f", "strict": True}}]
    with front_that_says(endpoint, "", template="{{ tools }}[TOOL_CALLS]") as front:
        assert front.refused(CHAT, **TOOLS, tool_choice="required")["param"] == "tool_choice"
        assert front.refused(CHAT, tools=strict)["param"] == "tools"
        assert front.post(CHAT, messages=HI, tools=strict, tool_choice="none").status_code == 200


def test_a_template_without_tools_is_told_of_none(endpoint: str) -> None:
    with front_that_says(endpoint, "", template="{{ messages }}") as front:
        assert front.refused(CHAT, **TOOLS)["param"] == "tools"
        assert front.post(CHAT, messages=HI, **TOOLS, tool_choice="none").status_code == 200


def test_effort_is_for_templates_that_read_it(endpoint: str) -> None:
    with front_that_says(endpoint, "", template="{{ messages[0].content }} {{ reasoning_effort }}") as front:
        assert front.post(CHAT, messages=HI, reasoning_effort="low").status_code == 200
        assert prompt_text(front) == "hi low"
