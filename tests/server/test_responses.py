"""/v1/responses: its items, its events and what it takes. OpenAI's client reads it in `test_clients`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from llmserve.engine.messages import Submit

from .conftest import TOKENIZER, Front
from .fake_engine import made_up
from .saying import HERMES, THINKING, front_that_says
from .test_tools import BOTH, CITY, WEATHER

PATH = "/v1/responses"
FLAT = {"type": "function", **WEATHER["function"], "strict": None}
TOOLS = {"tools": [FLAT, {"type": "function", "name": "f"}]}


def events(front: Front, **body: Any) -> list[dict[str, Any]]:
    """Of a stream, in their order."""
    with front.http.stream("POST", PATH, json={"input": "hi", **body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        text = response.read().decode()
    told = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {told[-1]['type']}"
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def alike(response: dict[str, Any]) -> dict[str, Any]:
    """Without what no two responses have in common."""
    output = [
        {name: value for name, value in item.items() if name not in ("id", "call_id")} for item in response["output"]
    ]
    rest = {name: value for name, value in response.items() if name not in ("id", "created_at", "completed_at")}
    return {**rest, "output": output}


def put_together(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, from the events alone; each event is checked against what came before."""
    items: list[dict[str, Any]] = []
    for event in told:
        kind = event["type"].removeprefix("response.")
        if "item_id" in event:
            assert event["item_id"] == items[-1]["id"]
        if "output_index" in event and kind != "output_item.added":
            assert event["output_index"] == len(items) - 1
        match kind:
            case "output_item.added":
                assert not items or items[-1]["status"] != "in_progress"
                items.append({**event["item"], "text": "", "parts": 0})
            case "content_part.added":
                assert (event["content_index"], event["part"]["text"], items[-1]["parts"]) == (0, "", 0)
                items[-1]["parts"] += 1
            case "output_text.delta" | "reasoning_text.delta" | "function_call_arguments.delta":
                items[-1]["text"] += event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert event["text"] == items[-1]["text"]
            case "function_call_arguments.done":
                assert event["arguments"] == items[-1]["text"]
            case "content_part.done":
                assert event["part"]["text"] == items[-1]["text"]
                items[-1]["content"] = [event["part"]]
            case "output_item.done":
                text = items[-1].pop("text")
                if items[-1].pop("parts") == 0:
                    items[-1]["arguments"] = text
                items[-1]["status"] = event["item"]["status"]
                assert event["item"] == items[-1]
    return items


@pytest.mark.parametrize(
    "text, body, types, status",
    [
        ("Hello 明", {}, ["message"], "completed"),
        (BOTH, TOOLS, ["message", "function_call", "function_call"], "completed"),
        (f"<think>Well</think>{BOTH} Done.", TOOLS,
         ["reasoning", "message", "function_call", "function_call", "message"], "completed"),
        (BOTH, {**TOOLS, "max_output_tokens": 60}, ["message", "function_call"], "incomplete"),
        (BOTH, {**TOOLS, "parallel_tool_calls": False}, ["message", "function_call"], "completed"),
        ("<think>Well", {"max_output_tokens": 9}, ["reasoning"], "incomplete"),
        ("", {}, [], "completed"),
    ],
)  # fmt: skip
def test_a_stream_put_together_is_the_whole_response(
    endpoint: str, text: str, body: dict[str, Any], types: list[str], status: str
) -> None:
    with front_that_says(endpoint, text, template=HERMES + "{% if false %}</think>{% endif %}") as front:
        whole = front.post(PATH, input="hi", **body).json()
        Response.model_validate(whole, strict=True)
        assert ([item["type"] for item in whole["output"]], whole["status"]) == (types, status)
        told = events(front, **body)
        assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
        assert told[0]["response"] | {"status": ""} == told[1]["response"] | {"status": ""}
        assert told[-1]["type"] == f"response.{status}"
        assert alike(told[-1]["response"]) == alike(whole)
        assert put_together(told) == told[-1]["response"]["output"]
        assert whole["usage"]["total_tokens"] == whole["usage"]["input_tokens"] + whole["usage"]["output_tokens"]


def test_what_is_said_of_a_response(endpoint: str) -> None:
    sent = {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "temperature": 0.5, "top_p": 0.5}
    with front_that_says(endpoint, "<think>ab</think>Hi", template=HERMES + "</think>") as front:
        told = front.post(PATH, input="hi", **sent, **TOOLS, tool_choice="auto", store=True).json()
        assert {name: told[name] for name in sent} == sent
        assert (told["model"], told["object"], told["error"], told["store"]) == ("tiny", "response", None, False)
        assert told["tools"][0] == {**FLAT, "description": None}
        assert told["tool_choice"] == "auto"
        assert told["usage"]["output_tokens_details"] == {"reasoning_tokens": 17}, "markers are some"
        sampling = front.engine.seen(Submit).request.sampling
        assert (sampling.temperature, sampling.top_p) == (0.5, 0.5)


def test_an_engine_that_dies_is_an_event_too(endpoint: str) -> None:
    with front_that_says(endpoint, "Hello") as front:
        front.engine.allowance = 3
        with front.http.stream("POST", PATH, json={"input": "hi", "stream": True}) as response:
            lines = []
            for line in response.iter_lines():
                lines.append(line)
                if "output_text.delta" in line:
                    front.engine.disconnect()
        told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        event = told[-1]
        assert event["response"]["output"] == put_together(told)
        assert [item["status"] for item in event["response"]["output"]] == ["incomplete"]
        assert (event["type"], event["response"]["status"]) == ("response.failed", "failed")
        assert event["response"]["error"]["code"] == "engine_error"


CALL = {
    "type": "function_call",
    "call_id": "c1",
    "name": "weather",
    "arguments": CITY,
    "id": "fc_1",
    "status": "completed",
}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "Sunny."}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Well."}]}
SAID = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
}  # fmt: skip
ASKED = {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}


@pytest.mark.parametrize(
    "items, messages",
    [
        ("hi", [{"role": "user", "content": "hi"}]),
        ([{"role": "developer", "content": "Be."}, ASKED],
         [{"role": "system", "content": "Be."}, {"role": "user", "content": "a\nb"}]),
        ([ASKED, THOUGHT, SAID, CALL, {**CALL, "call_id": "c2"}, RESULT],
         [{"role": "user", "content": "a\nb"},
          {"role": "assistant", "content": "Hello.", "reasoning_content": "Well.", "tool_calls": ["c1", "c2"]},
          {"role": "tool", "content": "Sunny.", "tool_call_id": "c1"}]),
        ([SAID, SAID, CALL, SAID, THOUGHT, CALL],
         [{"role": "assistant", "content": "Hello."},
          {"role": "assistant", "content": "Hello.", "tool_calls": ["c1"]},
          {"role": "assistant", "content": "Hello."},
          {"role": "assistant", "content": "", "reasoning_content": "Well.", "tool_calls": ["c1"]}]),
    ],
)  # fmt: skip
def test_items_become_messages(items: Any, messages: list[dict[str, Any]]) -> None:
    from llmserve.server.protocol.responses import ResponsesBody

    told = ResponsesBody.model_validate({"input": items}).messages
    for message in told:
        for call in message.get("tool_calls", ()):
            assert call["function"] == {"name": "weather", "arguments": json.loads(CITY)}
        if "tool_calls" in message:
            message["tool_calls"] = [call["id"] for call in message["tool_calls"]]
    assert told == messages


def test_a_conversation_goes_on(endpoint: str) -> None:
    with front_that_says(endpoint, f"Well.</think>{BOTH}", template=HERMES + THINKING) as front:
        output = front.post(PATH, input="hi", **TOOLS).json()["output"]
        result = {**RESULT, "call_id": output[2]["call_id"]}
        front.engine.received.clear()
        again = [{"role": "user", "content": "hi"}, *output, result]
        assert front.post(PATH, input=again, instructions="Be.", **TOOLS).status_code == 200
        text = TOKENIZER.decode(front.engine.seen(Submit).request.prompt, skip_special_tokens=False)
        assert "<|start|>system:  Be.\n<|start|>user:  hi\n<|start|>assistant: Well. I look.{" in text
        assert f"tool:  Sunny.{output[2]['call_id']}\n" in text


LOGPROBS = {"include": ["message.output_text.logprobs"]}


@pytest.mark.parametrize("said", ["", "<think>\nWell 明\n</think>\n\n"])
@pytest.mark.parametrize("tools", [{}, TOOLS])
def test_logprobs_are_those_of_the_tokens_of_the_text(endpoint: str, said: str, tools: dict[str, Any]) -> None:
    """And of no others: not of reasoning, markers, or calls."""
    answer = "Hello 明月🌟"
    calls = f" \n{BOTH.partition(chr(10))[2]}" if tools else ""
    template = HERMES + "{% if false %}</think>{% endif %}" if said else HERMES
    with front_that_says(endpoint, said + answer + calls, template=template) as front:
        whole = front.post(PATH, input="hi", **LOGPROBS, top_logprobs=2, **tools).json()
        told = events(front, **LOGPROBS, top_logprobs=2, **tools)
        none = front.post(PATH, input="hi", **tools).json()
    Response.model_validate(whole)
    message = next(item for item in whole["output"] if item["type"] == "message")
    [part] = message["content"]
    assert part["text"] == answer
    assert whole["top_logprobs"] == 2
    ids = TOKENIZER.encode(answer, add_special_tokens=False)
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]) == answer.encode()
    for id, entry in zip(ids, part["logprobs"], strict=True):
        known = made_up(id, 2)
        assert (entry["token"], entry["logprob"]) == (TOKENIZER.token_text(id), known.chosen)
        assert [(top["token"], top["logprob"]) for top in entry["top_logprobs"]] == [
            (TOKENIZER.token_text(other), logprob) for other, logprob in known.top
        ]
    streamed = [entry for event in told if event["type"] == "response.output_text.delta" for entry in event["logprobs"]]
    [done] = [event["logprobs"] for event in told if event["type"] == "response.output_text.done"]
    assert streamed == done == part["logprobs"]
    assert alike(told[-1]["response"]) == alike(whole)
    assert all(part["logprobs"] == [] for item in none["output"] for part in item.get("content", ())
               if item["type"] == "message")  # fmt: skip


@pytest.mark.parametrize(
    "body, param",
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"] * 17}, "include"),
        ({"include": "message.output_text.logprobs"}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "king", "content": "hi"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content"),
        ({"input": [ASKED, {**CALL, "arguments": "{"}]}, "input.1.tool_calls"),
        ({"input": [{**CALL, "name": None}]}, "input.0"),
        ({"input": [{**RESULT, "call_id": None}]}, "input.0.call_id"),
        ({"input": [{**THOUGHT, "encrypted_content": "x"}]}, "input.0.encrypted_content"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": "f"}, "tools"),
        ({**TOOLS, "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": "json"}, "text"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10_000}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_what_cannot_be(endpoint: str, body: dict[str, Any], param: str) -> None:
    with front_that_says(endpoint, "Hi") as front:
        response = front.post(PATH, **{"input": "hi", **body})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


def test_what_asks_for_nothing(endpoint: str) -> None:
    nothing = {
        "previous_response_id": None, "background": False, "include": [], "truncation": "disabled", "store": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": None},
        "service_tier": "auto", "stream_options": {"include_obfuscation": False}, "prompt_cache_key": "x",
    }  # fmt: skip
    with front_that_says(endpoint, "Hi") as front:
        assert front.post(PATH, input="hi", **nothing).json()["output"][0]["content"][0]["text"] == "Hi"
