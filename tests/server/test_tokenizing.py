"""/tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.server.serving import LONG_TEXT

from .conftest import END, TEXT, TOKENIZER, VOCAB, Front, running_front
from .fake_engine import READY

HI = [{"role": "user", "content": "hi"}]


def tokens_of(front: Front, **body: Any) -> list[int]:
    response = front.post("/tokenize", **body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == READY.max_model_len
    return answer["tokens"]


@pytest.mark.parametrize("text", ["", "hi", TEXT, "<|end|>x", " two  spaces "])
def test_a_text_there_and_back(front: Front, text: str) -> None:
    tokens = tokens_of(front, prompt=text, model="tiny")
    assert tokens == TOKENIZER.encode(text, add_special_tokens=True)
    assert front.post("/detokenize", tokens=tokens, model="tiny").json() == {"prompt": text}


def test_a_long_text_is_longer_than_a_request_may_be_and_still_told(front: Front) -> None:
    text = "x" * (LONG_TEXT - 1)
    tokens = tokens_of(front, prompt=text)
    assert len(tokens) == len(text)
    assert front.post("/detokenize", tokens=tokens * 2).json() == {"prompt": text * 2}


def test_what_could_never_be_a_prompt_is_refused_unread(front: Front) -> None:
    assert front.refused("/tokenize", messages=None, prompt="x" * 10**6)["code"] == "context_length_exceeded"


def test_a_conversation_is_what_a_chat_is_made_of(front: Front) -> None:
    kwargs = {"voice": "robot"}
    asked = tokens_of(front, messages=HI, chat_template_kwargs=kwargs)
    chat = front.post(
        "/v1/chat/completions", messages=HI, chat_template_kwargs=kwargs, max_tokens=1, return_token_ids=True
    )
    assert asked == chat.json()["prompt_token_ids"]
    open_end = tokens_of(front, messages=HI, add_generation_prompt=False)
    assert TOKENIZER.decode(open_end, skip_special_tokens=False) == "<|start|>user: hi\n"
    assert tokens_of(front, messages=HI)[: len(open_end)] == open_end


def test_strings_are_told_where_they_are_wanted(front: Front) -> None:
    answer = front.post("/tokenize", prompt="hell🌟<|end|>", return_token_strs=True).json()
    assert answer["token_strs"] == [TOKENIZER.token_text(token) for token in answer["tokens"]]
    assert answer["token_strs"][-1] == "<|end|>"
    assert front.post("/tokenize", prompt="hell").json()["token_strs"] is None


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "hi", "messages": HI}, "prompt"),
        ("/tokenize", {"prompt": ["hi"]}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"prompt": "hi", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"messages": HI, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "hi", "nonsense": 1}, "nonsense"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "hi"}, "tokens"),
        ("/detokenize", {"tokens": [1, "2"]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB]}, "tokens"),
        ("/detokenize", {"tokens": [END], "nonsense": 1}, "nonsense"),
    ],
)
def test_refusals_name_what_is_at_fault(front: Front, path: str, body: dict[str, Any], param: str) -> None:
    response = front.post(path, **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_another_model_is_not_found(front: Front) -> None:
    for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        response = front.post(path, **body, model="other")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_without_a_tokenizer_there_is_nothing_to_tell(endpoint: str) -> None:
    with running_front(endpoint, tokenizer=None) as front:
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
            assert "has none" in front.post(path, **body).json()["error"]["message"]
