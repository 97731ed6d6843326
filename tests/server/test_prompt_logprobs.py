"""`prompt_logprobs`, as vLLM has it: of every prompt token but the first, whatever the engine's chunks were."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from llmserve.engine.messages import Submit
from llmserve.server.serving import MAX_PROMPT_LOGPROBS

from .chunks import put_chat_together, put_together, stream
from .conftest import TOKENIZER, VOCAB, Front, running_front
from .fake_engine import made_up

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def expected(prompt: list[int], count: int, *, decoded: bool = True) -> list[dict[str, Any] | None]:
    """The token that is there comes first, and once."""
    told: list[dict[str, Any] | None] = [None]
    for token in prompt[1:]:
        logprobs = made_up(token, count, 1 + token % 3)
        entries = {token: (logprobs.chosen, logprobs.rank)}
        for rank, (id, logprob) in enumerate(logprobs.top, 1):
            entries[id] = (logprob, rank)
        told.append(
            {
                str(id): {"logprob": lp, "rank": rank, "decoded_token": TOKENIZER.token_text(id) if decoded else None}
                for id, (lp, rank) in entries.items()
            }
        )
    return told


@pytest.mark.parametrize("count", (0, 1, 2, 5, 20))
@pytest.mark.parametrize("length", (1, 2, 4, 5, 30))
def test_each_choice_has_its_prompts(front: Front, count: int, length: int) -> None:
    prompts = [[(7 * i + j) % 60 for i in range(length)] for j in range(3)]
    answer = front.complete(prompt=prompts, n=2, prompt_logprobs=count, max_tokens=3)
    for choice in answer["choices"]:
        told = choice["prompt_logprobs"]
        assert told == expected(prompts[choice["index"] // 2], count)
        for entry, token in zip(told[1:], prompts[choice["index"] // 2][1:], strict=True):
            assert next(iter(entry)) == str(token)


def test_the_rest_of_the_answer_is_as_without(front: Front) -> None:
    body: dict[str, Any] = {"n": 2, "max_tokens": 20, "logprobs": 2, "stop": ["world"], "return_token_ids": True}
    plain, told = front.complete(**body), front.complete(**body, prompt_logprobs=3)
    for choice in told["choices"]:
        assert choice.pop("prompt_logprobs")[0] is None
    assert told["choices"] == plain["choices"]
    assert told["usage"] == plain["usage"]


def test_the_engine_computes_them_once_a_prompt(front: Front) -> None:
    front.complete(prompt=["a", "b"], n=3, prompt_logprobs=2, max_tokens=1)
    asked = [m.request.sampling.prompt_logprobs for m in front.engine.received if isinstance(m, Submit)]
    assert asked == [2, None, None] * 2


def test_a_chat_answer_has_them_once(front: Front) -> None:
    answer = front.post(CHAT, messages=HI, n=2, prompt_logprobs=2, max_tokens=2, return_token_ids=True).json()
    assert answer["prompt_logprobs"] == expected(answer["prompt_token_ids"], 2)
    assert all("prompt_logprobs" not in choice for choice in answer["choices"])


def test_who_does_not_ask_gets_none(front: Front) -> None:
    assert "prompt_logprobs" not in front.complete(prompt_logprobs=None)["choices"][0]
    assert "prompt_logprobs" not in front.post(CHAT, messages=HI, max_tokens=1).json()


def test_without_a_tokenizer_tokens_have_no_text(endpoint: str) -> None:
    with running_front(endpoint, tokenizer=None, script=lambda request: [1]) as front:
        [choice] = front.complete(prompt=[1, 2, 3], prompt_logprobs=1, max_tokens=1)["choices"]
        assert choice["prompt_logprobs"] == expected([1, 2, 3], 1, decoded=False)


@pytest.mark.parametrize("path", ("/v1/completions", CHAT))
@pytest.mark.parametrize("count", (-1, 21, 1.5, True, "1", 10**400), ids=lambda count: str(count)[:9])
def test_what_it_cannot_be(front: Front, path: str, count: Any) -> None:
    assert front.refused(path, prompt_logprobs=count)["param"] == "prompt_logprobs"
    assert not front.engine.received


@pytest.mark.parametrize("steps_a_message", [1, 7])
@pytest.mark.parametrize("asked", [
    {"n": 2},
    {"prompt": [[5, 6, 7, 8, 9], [7], [1, 2]], "n": 2, "max_tokens": 9, "return_token_ids": True},
    {"echo": True},
    {"echo": True, "logprobs": 1, "prompt_logprobs": 3, "n": 2},
])  # fmt: skip
def test_a_stream_has_them_in_each_choices_first_chunk(
    front: Front, asked: dict[str, Any], steps_a_message: int
) -> None:
    front.engine.steps_a_message = steps_a_message
    body = {"prompt": "hello there", "seed": 0, "max_tokens": 5, "prompt_logprobs": 2} | asked
    whole = front.complete(**body)["choices"]
    told = stream(front, "/v1/completions", **body, stream_options={"include_usage": True})
    parts = [part for chunk in told for part in chunk["choices"]]
    firsts: dict[int, list[Any]] = {}
    for part in parts:
        if part["index"] in firsts:
            assert "prompt_logprobs" not in part
        else:
            firsts[part["index"]] = part.pop("prompt_logprobs")
    assert firsts == {choice["index"]: choice.pop("prompt_logprobs") for choice in whole}
    assert put_together(told, len(whole)) == whole


@pytest.mark.parametrize("messages", (HI, [{"role": "user", "content": "明月"}]))
def test_a_chats_stream_begins_with_them(front: Front, messages: list[dict[str, str]]) -> None:
    body = {"messages": messages, "seed": 0, "n": 2, "prompt_logprobs": 1, "max_tokens": 9, "return_token_ids": True}
    whole = front.post(CHAT, **body).json()
    chunks = stream(front, CHAT, **body)
    assert chunks[0]["prompt_logprobs"] == whole["prompt_logprobs"]
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_logprobs" in chunk for chunk in chunks[1:])
    assert put_chat_together(chunks, 2) == whole["choices"]


def test_one_call_cannot_ask_for_any_number(front: Front) -> None:
    prompts = [[VOCAB - 1] * 128] * 98  # 21 numbers each are some more than 2**18
    assert 97 * 128 * 21 <= MAX_PROMPT_LOGPROBS < 98 * 128 * 21
    error = front.refused(prompt=prompts, prompt_logprobs=20, max_tokens=1)
    assert error["param"] == "prompt_logprobs"
    assert str(98 * 128) in error["message"]
    assert front.refused(prompt=prompts[:49], n=2, prompt_logprobs=20, max_tokens=1)["param"] == "prompt_logprobs"
    assert not front.engine.received
    ask = {"prompt": prompts[:97], "prompt_logprobs": 20, "max_tokens": 1}
    answer = httpx.post(f"{front.url}/v1/completions", json=ask, timeout=100).json()  # so much that it takes a while
    assert [len(choice["prompt_logprobs"]) for choice in answer["choices"]] == [128] * 97
