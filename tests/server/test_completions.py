"""/v1/completions through the clients that people use."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.engine.messages import Abort, Submit

from .chunks import put_together, stream
from .conftest import END, TEXT, TOKENIZER, TOKENS, Front

BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one token": {"max_tokens": 1},
    "long": {"max_tokens": 150},
    "half a character at the end": {"max_tokens": 7},
    "choices": {"n": 5, "max_tokens": 20},
    "prompts": {"prompt": ["hi", "明月", "x"], "n": 2, "max_tokens": 9},
    "token ids": {"prompt": [1, 2, 3], "return_token_ids": True},
    "lists of token ids": {"prompt": [[1, 2, 3], [4]], "return_token_ids": True, "max_tokens": 40},
    "logprobs": {"logprobs": 3, "max_tokens": 30},
    "logprobs of the chosen only": {"logprobs": 0},
    "all at once": {"logprobs": 2, "max_tokens": 60, "return_token_ids": True, "n": 2, "stop": ["###", "never"]},
    "a stop string": {"stop": "world", "max_tokens": 60},
    "a stop string at once": {"stop": "H", "max_tokens": 60},
    "a stop string that only begins": {"stop": ["明天", "world!", "Hello 明月🌟 world. 👩‍🚀 ## "], "max_tokens": 24},
    "a stop string within a character": {"stop": "🌟", "max_tokens": 60},
    "a stop token": {"stop_token_ids": [TOKENS[9]], "max_tokens": 60},
    "no stop before": {"stop": "o", "min_tokens": 8, "max_tokens": 60},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_stream_put_together_is_the_whole_answer(front: Front, name: str) -> None:
    body = {"prompt": "hi", "seed": 0, "model": "tiny"} | BODIES[name]
    whole = front.post("/v1/completions", **body).json()
    chunks = stream(front, "/v1/completions", **body, stream_options={"include_usage": True})
    assert put_together(chunks, len(whole["choices"])) == whole["choices"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert {chunk["object"] for chunk in chunks} == {whole["object"]} == {"text_completion"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    texts = [part["text"] for chunk in chunks for part in chunk["choices"] if part["text"]]
    if name in ("plain", "long", "logprobs", "a stop string within a character"):
        assert not any("�" in text for text in texts)
    else:  # where max_tokens ends an answer within a character
        assert all("�" not in text or text.endswith("�") for text in texts)


def test_the_answer_is_the_text_of_its_tokens(front: Front) -> None:
    answer = front.complete(max_tokens=200 - 2, return_token_ids=True)
    [choice] = answer["choices"]
    assert choice["text"] == TOKENIZER.decode(choice["token_ids"])
    assert choice["text"].startswith(TEXT * 2)
    assert choice["prompt_token_ids"] == TOKENIZER.encode("hi", add_special_tokens=True)
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 198,
        "total_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_the_openai_client_streams_it(front: Front) -> None:
    chunks = list(
        front.openai.completions.create(model="tiny", prompt="hi", max_tokens=len(TOKENS), seed=0, stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert not any("�" in chunk.choices[0].text for chunk in chunks), "characters come whole"


def test_openais_default_is_sixteen_tokens(front: Front) -> None:
    assert front.complete()["usage"]["completion_tokens"] == 16
    # and what is left of the context, where that is less
    assert front.complete(prompt=[1] * 195)["usage"]["completion_tokens"] == 5


def test_the_end_of_text_ends_it(front: Front) -> None:
    front.engine.script = lambda request: [*TOKENS[:3], END]
    answer = front.complete(return_token_ids=True)
    [choice] = answer["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    assert choice["text"] == TOKENIZER.decode(TOKENS[:3])
    assert choice["token_ids"] == [*TOKENS[:3], END]
    assert answer["usage"]["completion_tokens"] == 4


def test_ignore_eos_and_min_tokens_reach_the_engine(front: Front) -> None:
    front.engine.script = lambda request: [*TOKENS[:3], END]
    assert front.complete(ignore_eos=True, max_tokens=9)["usage"]["completion_tokens"] == 9
    assert front.complete(min_tokens=5, max_tokens=9)["usage"]["completion_tokens"] == 8


def test_a_stop_token_is_reported(front: Front) -> None:
    [choice] = front.complete(stop_token_ids=[TOKENS[2]])["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", TOKENS[2])
    assert choice["text"] == TOKENIZER.decode(TOKENS[:2])


def test_a_stop_string_ends_the_request_at_the_engine(front: Front) -> None:
    front.engine.allowance = 60  # it would not end by itself
    [choice] = front.complete(stop=["world", "月🌟"], max_tokens=190)["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("Hello 明", "stop", "月🌟")
    assert front.engine.seen(Abort).request_id == front.engine.seen(Submit).request.id


def test_what_the_client_does_not_say_is_the_models_and_then_openais(front: Front) -> None:
    front.complete()
    sampling = front.engine.received[0].request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1.0, 1.0, 0, 0)
    assert sampling.stop_token_ids == {END}


def test_what_the_client_says_reaches_the_engine(front: Front) -> None:
    front.complete(
        temperature=0, top_p=0.5, top_k=7, seed=-1, max_tokens=3, min_tokens=1, stop_token_ids=[5], logprobs=2
    )
    sampling = front.engine.received[0].request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.0, 0.5, 7, 2**63 - 1)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.logprobs) == (3, 1, 2)
    assert sampling.stop_token_ids == {END, 5}


def seeds(front: Front) -> list[int]:
    return [message.request.sampling.seed for message in front.engine.received if hasattr(message, "request")]


def test_seeds(front: Front) -> None:
    front.complete(n=3, seed=5)
    front.complete(n=1, seed=5)
    first, second, third, alone = seeds(front)
    assert alone == first == 5
    assert len({first, second, third}) == 3
    front.engine.received.clear()
    front.post("/v1/completions", prompt=["same", "same"])
    one, other = seeds(front)
    assert one != other


def test_one_text_has_one_answer_however_its_prompt_is_given(front: Front) -> None:
    ids = TOKENIZER.encode("明月", add_special_tokens=True)
    texts = [front.complete(prompt=prompt)["choices"][0]["text"] for prompt in ("明月", ["明月"], ids, [ids])]
    assert len(set(texts)) == 1


def test_logprobs_are_those_of_the_tokens(front: Front) -> None:
    [choice] = front.complete(logprobs=2, max_tokens=12, return_token_ids=True)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"] == [-1.0 - id % 5 for id in choice["token_ids"]]
    assert logprobs["tokens"] == [TOKENIZER.token_text(id) for id in choice["token_ids"]]
    for text, chosen, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[text] == chosen
    for text, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert "�" in text or choice["text"][offset:].startswith(text)


def test_text_that_is_held_back_makes_no_empty_chunks(front: Front) -> None:
    chunks = stream(front, "/v1/completions", prompt="hi", seed=0, max_tokens=len(TOKENS))
    assert all(part["text"] or part["finish_reason"] for chunk in chunks for part in chunk["choices"])
    with_ids = stream(front, "/v1/completions", prompt="hi", seed=0, max_tokens=len(TOKENS), return_token_ids=True)
    *parts, last = [part["token_ids"] for chunk in with_ids for part in chunk["choices"]]
    assert all(parts)
    assert ([id for ids in parts for id in ids], last) == (TOKENS, [])
