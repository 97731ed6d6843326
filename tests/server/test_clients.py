"""OpenAI's own Python client, with its helpers, against what we answer: nothing of it is read by hand here."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from llmserve.config import ServerConfig

from .fake_engine import wait_for
from .saying import HERMES, THINKING, front_that_says
from .test_tools import BOTH, CITY, TOOLS, WEATHER, call

HI: Any = [{"role": "user", "content": "hi"}]
MODEL = "tiny"


class Weather(BaseModel):
    """The weather of a place."""

    city: str


def test_a_round_trip_with_tools(endpoint: str) -> None:
    with front_that_says(endpoint, BOTH, "It is sunny.") as front:
        create = front.openai.chat.completions.create
        choice = create(model=MODEL, messages=HI, **TOOLS).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        called = [(each.function.name, json.loads(each.function.arguments)) for each in choice.message.tool_calls]
        assert called == [("weather", {"city": "北京🌟"}), ("f", {})]
        results = [{"role": "tool", "tool_call_id": each.id, "content": "Sunny."} for each in choice.message.tool_calls]
        last = create(model=MODEL, messages=[*HI, choice.message, *results], **TOOLS).choices[0]
        assert (last.message.content, last.message.tool_calls, last.finish_reason) == ("It is sunny.", None, "stop")


def test_the_streaming_helper_puts_calls_together(endpoint: str) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    with (
        front_that_says(endpoint, f"I look.\n{call('weather', CITY)}") as front,
        front.openai.chat.completions.stream(model=MODEL, messages=HI, tools=[tool]) as stream,
    ):
        kinds = [event.type for event in stream]
        assert "tool_calls.function.arguments.delta" in kinds
        assert kinds.count("tool_calls.function.arguments.done") == 1
        message = stream.get_final_completion().choices[0].message
        assert message.content == "I look."
        assert message.tool_calls is not None
        assert message.tool_calls[0].function.parsed_arguments == Weather(city="北京🌟")


def test_calls_are_parsed(endpoint: str) -> None:
    with front_that_says(endpoint, call("weather", CITY)) as front:
        tools = [openai.pydantic_function_tool(Weather, name="weather")]
        [called] = (
            front.openai.chat.completions.parse(model=MODEL, messages=HI, tools=tools).choices[0].message.tool_calls
        )
        assert called.function.parsed_arguments == Weather(city="北京🌟")


def test_reasoning(endpoint: str) -> None:
    with front_that_says(endpoint, "Well.</think>Hi.", template=HERMES + THINKING) as front:
        create = front.openai.chat.completions.create
        message: Any = create(model=MODEL, messages=HI).choices[0].message
        assert (message.reasoning_content, message.content) == ("Well.", "Hi.")
        deltas: list[Any] = [chunk.choices[0].delta for chunk in create(model=MODEL, messages=HI, stream=True)]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Well."
        assert "".join(delta.content or "" for delta in deltas) == "Hi."


def test_responses(endpoint: str) -> None:
    flat: Any = [{"type": "function", **WEATHER["function"], "strict": False}]
    with front_that_says(endpoint, f"Well.</think>I look.\n{call('weather', CITY)}", "</think>Sunny.",
                         template=HERMES + THINKING) as front:  # fmt: skip
        create = front.openai.responses.create
        asked = [{"role": "user", "content": "hi"}]
        first = create(model=MODEL, input=asked, tools=flat)
        assert first.output_text == "I look."
        reasoning, _, called = first.output
        assert (reasoning.type, called.type) == ("reasoning", "function_call")
        assert json.loads(called.arguments) == {"city": "北京🌟"}
        result = {"type": "function_call_output", "call_id": called.call_id, "output": "Sunny."}
        again: Any = [*asked, *first.output, result]
        assert create(model=MODEL, input=again, tools=flat).output_text == "Sunny."
        kinds = [event.type for event in create(model=MODEL, input=asked, tools=flat, stream=True)]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_the_streaming_helper_of_responses(endpoint: str) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    flat: Any = [{"type": "function", **tool["function"]}]
    with (
        front_that_says(endpoint, f"I look.\n{call('weather', CITY)}") as front,
        front.openai.responses.stream(model=MODEL, input="hi", tools=flat) as stream,
    ):
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
        assert "".join(deltas) == final.output_text == "I look."
        assert final.output[1].type == "function_call"
        parsed = front.openai.responses.parse(model=MODEL, input="hi", tools=flat)
        assert [item.type for item in parsed.output] == ["message", "function_call"]


def test_errors_are_of_the_clients_classes(endpoint: str) -> None:
    with front_that_says(endpoint, "Hi", config=ServerConfig(max_queue=0)) as front:
        create, respond = front.openai.chat.completions.create, front.openai.responses.create
        with pytest.raises(openai.BadRequestError) as refused:
            create(model=MODEL, messages=HI, tool_choice="required")
        assert (refused.value.param, refused.value.type) == ("tool_choice", "invalid_request_error")
        with pytest.raises(openai.NotFoundError) as refused:
            respond(model="other", input="hi")
        assert refused.value.code == "model_not_found"
        front.engine.allowance = 0
        streams = [create(model=MODEL, messages=HI, stream=True) for _ in range(8)]
        with pytest.raises(openai.RateLimitError) as refused:
            respond(model=MODEL, input="hi")
        assert refused.value.code == "queue_full"
        for stream in streams:
            stream.close()
        front.engine.disconnect()
        wait_for(lambda: front.http.get("/health").status_code == 503)
        with pytest.raises(openai.InternalServerError) as failed:
            create(model=MODEL, messages=HI)
        assert (failed.value.status_code, failed.value.code) == (503, "engine_dead")


def test_the_asynchronous_client(endpoint: str) -> None:
    async def ask(url: str) -> str:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            client.responses.stream(model=MODEL, input="hi") as stream,
        ):
            return (await stream.get_final_response()).output_text

    with front_that_says(endpoint, "Hello 明月") as front:
        assert asyncio.run(ask(front.url)) == "Hello 明月"
