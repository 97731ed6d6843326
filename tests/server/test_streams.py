"""Streams as clients depend on them: what comes in which order, how it is cut, and what a slow reader gets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from llmserve.config import ServerConfig
from llmserve.engine.messages import Events, Failed
from llmserve.request import Finish, SamplingParams, TokenEvent
from llmserve.server.engine_client import EngineClient
from llmserve.server.generation import MANY_TEXTS, Generation, Job
from llmserve.server.listen import listen

from .chunks import put_chat_together, put_together, stream
from .conftest import TEXT, TOKENIZER, TOKENS, Front, running_front
from .fake_engine import READY, wait_for

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def slow_front(endpoint: str) -> Iterator[Front]:
    """Its engine computes nothing until a test lets it, and its streams say every moment that they go on."""
    with running_front(endpoint, config=ServerConfig(sse_ping_interval=0.05)) as front:
        front.engine.allowance = 0
        yield front


def test_where_the_engine_waits_for_the_reader_each_token_has_a_chunk(slow_front: Front) -> None:
    body = {"prompt": "hi", "seed": 0, "max_tokens": len(TOKENS), "stream": True, "return_token_ids": True}
    seen: list[list[int]] = []
    with slow_front.http.stream("POST", "/v1/completions", json=body) as response:
        lines = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        for _ in TOKENS:
            slow_front.engine.allowance = 1
            seen.append(next(lines)["choices"][0]["token_ids"])
            wait_for(lambda: slow_front.engine.allowance == 0)
        assert next(lines)["choices"][0]["finish_reason"] == "length"
    assert seen == [[token] for token in TOKENS]


@pytest.mark.parametrize("steps_a_message", [1, 2, 7, 1000])
def test_tokens_that_come_together_leave_together(front: Front, steps_a_message: int) -> None:
    front.engine.steps_a_message = steps_a_message
    body: dict[str, Any] = {"seed": 0, "n": 2, "max_tokens": 50, "return_token_ids": True}
    whole = front.post(CHAT, messages=HI, logprobs=True, top_logprobs=1, **body).json()["choices"]
    chunks = stream(front, CHAT, messages=HI, logprobs=True, top_logprobs=1, **body)
    assert put_chat_together(chunks, 2) == whole
    for part in (part for chunk in chunks for part in chunk["choices"] if "token_ids" in part):
        told = part["logprobs"]["content"] if part["logprobs"] else []
        assert len(told) == len(part["token_ids"]), "an entry for each token of the chunk"
    whole = front.post("/v1/completions", prompt="hi", logprobs=2, **body).json()["choices"]
    chunks = stream(front, "/v1/completions", prompt="hi", logprobs=2, **body)
    assert put_together(chunks, 2) == whole
    if steps_a_message == 1000:
        assert len(chunks) == 4, "of each choice its tokens and its end"


def test_what_comes_in_which_order(front: Front) -> None:
    options = {"include_usage": True}
    chunks = stream(front, CHAT, messages=HI, seed=0, max_tokens=len(TOKENS), stream_options=options)
    first, *texts, finish, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == TEXT
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *texts))
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(TOKENS)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_usage_so_far(front: Front, path: str) -> None:
    front.engine.steps_a_message = 3
    body: dict[str, Any] = {"messages": HI} if path == CHAT else {"prompt": ["hi", "明月 you"]}
    options = {"include_usage": True, "continuous_usage_stats": True}
    body |= {"seed": 0, "n": 2, "max_tokens": 20, "return_token_ids": True}
    *chunks, last = stream(front, path, **body, stream_options=options)
    seen: dict[int, int] = {}
    prompts: dict[int, int] = {}
    for chunk in chunks:
        [choice], usage = chunk["choices"], chunk["usage"]
        index = choice["index"]
        seen[index] = seen.get(index, 0) + len(choice.get("token_ids", []))
        assert usage["completion_tokens"] == seen[index]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert prompts.setdefault(index, usage["prompt_tokens"]) == usage["prompt_tokens"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached == (4 if seen[index] else cached), "the prompt's own, as the fake engine finds them"
        assert cached <= 4
    assert sum(seen.values()) == last["usage"]["completion_tokens"]
    firsts = [count for index, count in prompts.items() if index % 2 == 0]
    assert sum(firsts) == last["usage"]["prompt_tokens"]
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4 * len(firsts)}


def test_silence_is_filled_with_comments(slow_front: Front) -> None:
    with slow_front.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "max_tokens": 2}) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith(":"))
        next(line for line in lines if line.startswith(":"))
        slow_front.engine.allowance = None
        assert [line for line in lines if line.startswith("data")][-1] == "data: [DONE]"


def test_an_error_is_a_chunk_and_then_the_end_comes(slow_front: Front) -> None:
    with slow_front.http.stream("POST", CHAT, json={"messages": HI, "stream": True, "seed": 0}) as response:
        lines = (line for line in response.iter_lines() if line and line[0] != ":")
        next(lines)
        slow_front.engine.allowance = 5
        text = json.loads(next(lines)[6:])["choices"][0]["delta"]["content"]
        wait_for(lambda: slow_front.engine.allowance == 0)
        slow_front.engine.say(Failed("Out of memory."))
        *rest, error, done = lines
    text += "".join(json.loads(line[6:])["choices"][0]["delta"]["content"] for line in rest)
    assert text == TOKENIZER.decode(TOKENS[:5]).removesuffix("�")
    assert json.loads(error[6:])["error"]["message"] == "Out of memory."
    assert done == "data: [DONE]"


def test_a_reader_who_stands_still_gets_all_of_it_in_fewer_chunks(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets take little here; what they do not take waits and is merged, while others are served."""

    def narrow(host: str, port: int) -> socket.socket:
        listener = listen(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listener

    monkeypatch.setattr("tests.server.conftest.listen", narrow)
    body = {"messages": HI, "seed": 0, "n": 8, "logprobs": True, "top_logprobs": 20, "return_token_ids": True}
    with running_front(endpoint) as front:
        whole = front.post(CHAT, **body).json()
        front.engine.allowance = 1
        with front.http.stream("POST", CHAT, json={**body, "stream": True}) as response:
            wait_for(lambda: front.engine.allowance == 0)
            for _ in range(120):  # step by step, so that nothing but the reader merges
                front.engine.allowance = 1
                wait_for(lambda: front.engine.allowance == 0)
            front.engine.allowance = None
            wait_for(lambda: front.client.open_requests == 0)
            assert front.complete(max_tokens=3)["usage"]["completion_tokens"] == 3
            lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line[6:]) for line in lines]
    assert put_chat_together(chunks, 8) == whole["choices"]
    assert len(chunks) < whole["usage"]["completion_tokens"] / 2


def test_what_waits_for_a_slow_reader_is_text(endpoint: str) -> None:
    """However many tokens came, he finds one delta, and nothing of the events is kept."""

    async def live() -> None:
        client = EngineClient(endpoint)
        client.state = READY
        client._send = lambda message: None  # type: ignore[method-assign]
        count = 5000
        job = Job([(1, 2)], SamplingParams(max_tokens=count), [count])
        generation = Generation(client, TOKENIZER, job)
        [id] = generation._running
        batches = generation.batches()
        tokens = [TOKENS[i % len(TOKENS)] for i in range(count)]
        client._take(Events([TokenEvent(id, tokens[0])]))
        assert [delta.text for delta in await anext(batches)] == [TOKENIZER.decode(tokens[:1])]
        for i in range(1, count):
            client._take(Events([TokenEvent(id, tokens[i], Finish.LENGTH if i == count - 1 else None)]))
        waiting = generation._choices[id]
        assert not waiting._tokens
        assert len(waiting._texts) <= MANY_TEXTS
        [delta, end] = await anext(batches)
        assert delta.text == TOKENIZER.decode(tokens)[1:]
        assert (delta.generated, end.finish) == (count, Finish.LENGTH)
        assert [batch async for batch in batches] == []
        generation.close()

    asyncio.run(live())
