"""`echo` of /v1/completions: the answer with its prompt before it, as one text and as one list of tokens."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest

from .chunks import put_together, stream
from .conftest import END, TEXT, TOKENIZER, Front, running_front
from .fake_engine import made_up
from .test_lifecycle import in_thread
from .test_scheduling import time_is_up

PROMPT = "Say 明月🌟:"
HI = [{"role": "user", "content": "hi"}]
IDS = TOKENIZER.encode(PROMPT, add_special_tokens=True)


def test_the_text_begins_with_the_prompt(front: Front) -> None:
    answer = front.complete(prompt=[PROMPT, "hi"], n=2, echo=True, max_tokens=9, return_token_ids=True)
    plain = front.complete(prompt=[PROMPT, "hi"], n=2, max_tokens=9, return_token_ids=True)
    assert answer["usage"] == plain["usage"]
    for told, choice in zip(answer["choices"], plain["choices"], strict=True):
        assert told == {**choice, "text": (PROMPT, "hi")[choice["index"] // 2] + choice["text"]}


@pytest.mark.parametrize("count", (0, 1, 3))
def test_its_tokens_are_told_of_like_the_answers(front: Front, count: int) -> None:
    ask = {"prompt": IDS, "max_tokens": 5, "logprobs": count, "return_token_ids": True}
    [plain] = front.complete(**ask)["choices"]
    [choice] = front.complete(**ask, echo=True)["choices"]
    assert choice["token_ids"] == plain["token_ids"]
    assert choice["text"] == PROMPT + plain["text"]
    told, answer = choice["logprobs"], plain["logprobs"]
    assert told["tokens"] == [TOKENIZER.token_text(id) for id in IDS] + answer["tokens"]
    expected = [made_up(id, count, 1 + id % 3) for id in IDS[1:]]
    assert told["token_logprobs"] == [None, *(e.chosen for e in expected), *answer["token_logprobs"]]
    for id, top, logprobs in zip(IDS[1:], told["top_logprobs"][1:], expected, strict=False):
        known = [*logprobs.top, (id, logprobs.chosen)]
        texts = [TOKENIZER.token_text(other) for other, _ in known]
        assert list(top) == list(dict.fromkeys(texts))
        for text, (_, logprob) in zip(texts, known, strict=True):
            assert texts.count(text) > 1 or top[text] == logprob
    assert told["top_logprobs"][0] is None
    assert told["top_logprobs"][len(IDS) :] == answer["top_logprobs"]
    assert told["text_offset"][len(IDS) :] == [len(PROMPT) + offset for offset in answer["text_offset"]]
    for text, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert "�" in text or choice["text"][offset:].startswith(text)


def test_both_kinds_of_logprobs_have_their_own_number(front: Front) -> None:
    [choice] = front.complete(prompt=IDS, echo=True, logprobs=1, prompt_logprobs=4, max_tokens=1)["choices"]
    for id, entry, top in zip(
        IDS[1:], choice["prompt_logprobs"][1:], choice["logprobs"]["top_logprobs"][1:], strict=False
    ):
        assert len({int(key) for key in entry} - {id}) in (3, 4)
        assert len(top) <= 2
    [choice] = front.complete(prompt=IDS, echo=True, logprobs=4, prompt_logprobs=0, max_tokens=1)["choices"]
    assert [list(entry) for entry in choice["prompt_logprobs"][1:]] == [[str(id)] for id in IDS[1:]]


def test_without_a_tokenizer_there_is_no_text(endpoint: str) -> None:
    with running_front(endpoint, tokenizer=None, script=lambda request: [1]) as front:
        [choice] = front.complete(prompt=[4, 2], echo=True, logprobs=0, max_tokens=1)["choices"]
        assert choice["text"] == ""
        assert choice["logprobs"]["tokens"] == ["token_id:4", "token_id:2", "token_id:1"]


@pytest.mark.parametrize("steps_a_message", [1, 7])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"n": 3, "return_token_ids": True},
        {"logprobs": 2},
        {"logprobs": 0, "n": 3, "return_token_ids": True},
        {"logprobs": 1, "prompt": [PROMPT, [7], "hi", IDS], "n": 2},
        {"logprobs": 1, "prompt": [5]},
        {"logprobs": 1, "stop": "明", "max_tokens": 30},
    ],
)
def test_a_stream_put_together_is_the_whole_answer(front: Front, asked: dict[str, Any], steps_a_message: int) -> None:
    """Each choice begins with its prompt, also those whose answers begin before all of the prompt is told of."""
    front.engine.steps_a_message = steps_a_message
    body = {"prompt": PROMPT, "seed": 0, "echo": True, "max_tokens": 9} | asked
    whole = front.post("/v1/completions", **body).json()["choices"]
    chunks = stream(front, "/v1/completions", **body)
    assert put_together(chunks, len(whole)) == whole
    parts = [part for chunk in chunks for part in chunk["choices"]]
    assert all(part["text"] or part["finish_reason"] or part["logprobs"] or part.get("token_ids") for part in parts)


def test_of_a_prompt_whose_time_was_up_a_stream_tells_what_was_known(endpoint: str) -> None:
    with running_front(endpoint) as front:
        front.engine.allowance = 0
        ask = {"prompt": list(range(1, 9)), "logprobs": 1, "echo": True, "timeout": 9, "n": 2}
        chunks = in_thread(lambda: stream(front, "/v1/completions", **ask))
        time_is_up(front, choices=2, after=1)
        for choice in put_together(chunks(), 2):
            assert choice["finish_reason"] == "timeout"
            assert [known is None for known in choice["logprobs"]["token_logprobs"]][:8] == [
                True,
                *[False] * 3,
                *[True] * 4,
            ]


@pytest.mark.parametrize("path", ("/v1/completions", "/v1/chat/completions"))
def test_likewise_of_its_own_log_probabilities(endpoint: str, path: str) -> None:
    with running_front(endpoint) as front:
        front.engine.allowance = 0
        ask = {"prompt": list(range(1, 9))} if path == "/v1/completions" else {"messages": HI}
        chunks = in_thread(lambda: stream(front, path, **ask, prompt_logprobs=0, timeout=9))
        time_is_up(front, choices=1, after=1)
        first, last = itemgetter(0, -1)(chunks())
        told = (first["choices"][0] if path == "/v1/completions" else first)["prompt_logprobs"]
        assert [known is None for known in told[:5]] == [True, False, False, False, True]
        assert last["choices"][0]["finish_reason"] == "timeout"


def test_without_it_there_is_none(front: Front) -> None:
    assert front.refused(echo="yes")["param"] == "echo"
    assert front.complete(echo=False)["choices"][0]["text"] == TEXT[:16][: len(front.complete()["choices"][0]["text"])]


def test_too_much_of_it_is_refused(front: Front) -> None:
    error = front.refused(prompt=[[1] * 190] * 128, echo=True, logprobs=20, max_tokens=1)
    assert error["param"] == "echo"
    assert not front.engine.received


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"logprobs": 1},
        {"logprobs": 0, "prompt_logprobs": 2, "n": 2, "prompt": ["hi", IDS]},
        {"logprobs": 5, "return_token_ids": True, "stop": "S"},
        {"prompt": [1] * 199},
    ],
)
def test_of_the_prompt_alone(front: Front, asked: dict[str, Any]) -> None:
    """What evaluations ask for: it is the echo of an answer, without the answer."""
    body = {"prompt": IDS, "seed": 0, "echo": True} | asked
    told = front.post("/v1/completions", **body, max_tokens=0).json()
    more = front.post("/v1/completions", **body, max_tokens=1).json()
    for choice, longer in zip(told["choices"], more["choices"], strict=True):
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)
        assert choice["text"]
        assert longer["text"].startswith(choice["text"])
        assert choice.get("prompt_logprobs") == longer.get("prompt_logprobs")
        for name, values in (choice["logprobs"] or {}).items():
            assert values == longer["logprobs"][name][: len(values)]
            assert len(values) == len(longer["logprobs"][name]) - 1
        assert choice.get("token_ids", []) == []
    assert told["usage"] == {
        **more["usage"], "completion_tokens": 0, "total_tokens": told["usage"]["prompt_tokens"]
    }  # fmt: skip
    chunks = stream(front, "/v1/completions", **body, max_tokens=0)
    streamed = put_together(chunks, len(told["choices"]))
    assert streamed == [{k: v for k, v in choice.items() if k != "prompt_logprobs"} for choice in told["choices"]]


def test_no_token_can_be_asked_for_with_the_prompt_alone(front: Front) -> None:
    assert front.refused(max_tokens=0)["param"] == "max_tokens"
    assert "echo" in front.refused(max_tokens=0, logprobs=1)["message"]
    assert front.refused(max_tokens=0, echo=True, min_tokens=1)["param"] == "min_tokens"
    assert front.refused("/v1/chat/completions", max_tokens=0)["param"] == "max_tokens"
    assert not front.engine.received


def test_a_token_that_would_end_the_answer_is_no_answer_either(endpoint: str) -> None:
    with running_front(endpoint, script=lambda request: [END]) as front:
        [choice] = front.complete(prompt="hi", echo=True, max_tokens=0)["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
