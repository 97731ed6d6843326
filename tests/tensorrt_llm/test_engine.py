"""The engine over the stand-in's executor: every event of every request, and what TensorRT-LLM was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from llmserve.config import EngineConfig
from llmserve.errors import ConfigError, RequestError
from llmserve.request import Finish, Pooling, Request, SamplingParams
from llmserve.tensorrt_llm.executor import check_settings
from tests.tensorrt_llm.driven import END, GREEDY, PROMPT, VOCABULARY, Driven, build_here, driven, expected, tokens


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    folder = tmp_path_factory.mktemp("running")
    with driven(build_here(folder), folder / "running") as made:
        yield made


def test_a_greedy_answer_comes_token_by_token(running: Driven) -> None:
    events = running.run(Request(1, PROMPT, GREEDY))
    assert tokens(events) == expected(6)
    assert [event.finish for event in events] == [None] * 5 + [Finish.LENGTH]
    sampling = running.asked()["sampling_config"]
    assert sampling["top_k"] == 1
    assert sampling["temperature"] is None


def test_requests_run_together_and_do_not_mix(running: Driven) -> None:
    prompts = {i: (i, *PROMPT) for i in range(10, 20)}
    events = running.run(*(Request(i, prompt, GREEDY) for i, prompt in prompts.items()))
    for i, prompt in prompts.items():
        assert tokens([event for event in events if event.request_id == i]) == expected(6, prompt=prompt)


def test_sampling_is_told_in_full(running: Driven) -> None:
    sampling = SamplingParams(
        max_tokens=3, temperature=0.5, top_p=0.9, top_k=7, min_p=0.05, seed=2**62, repetition_penalty=1.5,
        bad_words=((1, 2), (3,)),
    )  # fmt: skip
    events = running.run(Request(2, PROMPT, sampling, timeout=12.5, cache_salt="tenant"))
    assert tokens(events) == expected(3, seed=2**62)
    asked = running.asked()
    told = asked["sampling_config"]
    assert (told["temperature"], told["top_p"], told["top_k"], told["min_p"]) == (0.5, 0.9, 7, 0.05)
    assert (told["seed"], told["repetition_penalty"]) == (2**62, 1.5)
    assert asked["bad_words"] == [[1, 2], [3]]
    assert asked["end_id"] is None
    assert asked["stop_words"] is None
    assert "0:00:12.5" in str(asked["allotted_time_ms"])
    salted = asked["cache_salt_id"]
    running.run(Request(3, PROMPT, sampling, cache_salt="another"))
    assert running.asked()["cache_salt_id"] not in (None, salted)
    running.run(Request(3, PROMPT, sampling))
    assert running.asked()["cache_salt_id"] is None


def test_plain_sampling_is_not_greedy(running: Driven) -> None:
    """Without top_k and top_p TensorRT-LLM takes the likeliest token."""
    running.run(Request(2, PROMPT, SamplingParams(max_tokens=1)))
    told = running.asked()["sampling_config"]
    assert (told["top_p"], told["top_k"], told["temperature"]) == (1.0, None, 1.0)


def test_a_stop_token_ends_an_answer_and_is_its_last(running: Driven) -> None:
    answer = expected(6)
    stops = frozenset({END, answer[3]})
    events = running.run(Request(4, PROMPT, replace(GREEDY, stop_token_ids=stops)))
    assert tokens(events) == answer[:4]
    assert events[-1].finish is Finish.STOP
    asked = running.asked()
    assert (asked["end_id"], asked["stop_words"]) == (END, [[answer[3]]])


def test_log_probabilities_belong_to_their_tokens(running: Driven) -> None:
    from tensorrt_llm import _answers

    events = running.run(Request(5, PROMPT, replace(GREEDY, logprobs=0)))
    assert [event.logprobs and event.logprobs.chosen for event in events] == [
        _answers.log_prob(token) for token in expected(6)
    ]
    assert all(event.logprobs is None for event in running.run(Request(5, PROMPT, GREEDY)))


def test_how_much_of_a_prompt_was_cached_is_told_once(running: Driven) -> None:
    prompt = tuple(range(100, 200))
    first, second = (running.run(Request(i, prompt, GREEDY)) for i in (6, 7))
    assert [event.cached_tokens for event in first] == [0] * 6
    assert sorted(event.cached_tokens for event in second) == [0] * 5 + [96]


def test_a_cancelled_request_ends_once_and_later(running: Driven) -> None:
    running.engine.submit(Request(8, PROMPT, replace(GREEDY, max_tokens=900)))
    running.events = []
    running.until(lambda: running.events)
    assert running.engine.abort(8) is None
    running.until(lambda: not running.engine.has_work)
    assert [event.finish for event in running.events if event.finish] == [Finish.ABORT]
    assert running.engine.abort(8) is None
    assert len(running.stand_in.calls("cancel_request")) == 1


def test_a_request_whose_time_is_up_ends_so(running: Driven) -> None:
    [*_, last] = running.run(Request(9, PROMPT, replace(GREEDY, max_tokens=900), timeout=0.05))
    assert last.finish is Finish.TIMEOUT


def test_abort_all_ends_everything_at_once_and_what_comes_later_is_dropped(running: Driven) -> None:
    for i in (30, 31):
        running.engine.submit(Request(i, PROMPT, replace(GREEDY, max_tokens=900)))
    ends = running.engine.abort_all(Finish.ABORT)
    assert [(event.request_id, event.finish) for event in ends] == [(30, Finish.ABORT), (31, Finish.ABORT)]
    assert not running.engine.has_work
    assert tokens(running.run(Request(32, PROMPT, GREEDY))) == expected(6)
    assert {event.request_id for event in running.events} == {32}


@pytest.mark.parametrize(
    "request_, param",
    [
        (Request(40, PROMPT, replace(GREEDY, prompt_logprobs=0)), "prompt_logprobs"),
        (Request(40, PROMPT, replace(GREEDY, logit_bias=((1, 1.0),))), "logit_bias"),
        (Request(40, PROMPT, replace(GREEDY, allowed_token_ids=frozenset({1}))), "allowed_token_ids"),
        (Request(40, PROMPT, replace(GREEDY, presence_penalty=0.5)), "presence_penalty"),
        (Request(40, PROMPT, replace(GREEDY, frequency_penalty=0.5)), "frequency_penalty"),
        (Request(40, PROMPT, replace(GREEDY, grammar="{}", stop_token_ids=frozenset({1}))), "response_format"),
        (Request(40, PROMPT, replace(GREEDY, logprobs=1)), "logprobs"),
        (Request(40, PROMPT, replace(GREEDY, min_tokens=1, stop_token_ids=frozenset({1, 2}))), "min_tokens"),
        (Request(40, PROMPT, GREEDY, priority=1), "priority"),
        (Request(40, PROMPT, GREEDY, pooling=Pooling.LAST), "pooling"),
        (Request(40, (VOCABULARY,), GREEDY), "prompt"),
        (Request(40, PROMPT, replace(GREEDY, max_tokens=961)), "max_tokens"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(running: Driven, request_: Request, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        running.engine.submit(request_)
    assert refusal.value.param == param
    assert not running.engine.has_work


def test_the_executor_is_made_as_the_engine_and_the_flags_say(running: Driven) -> None:
    [call] = running.stand_in.calls("Executor")
    config = call["config"]
    assert (config["max_batch_size"], config["max_num_tokens"], config["max_beam_width"]) == (4, 64, 1)
    assert config["enable_chunked_context"] is True
    assert config["normalize_log_probs"] is False
    assert config["kv_cache_config"]["enable_block_reuse"] is True
    assert "LEADER" in str(config["parallel_config"]["communication_mode"])


def test_settings_of_the_native_engine_are_refused() -> None:
    with pytest.raises(ConfigError, match="--block-size is for native engines only"):
        check_settings(EngineConfig(block_size=32))
    check_settings(EngineConfig(max_num_seqs=1, prefix_caching=False, kv_cache_memory=1, verify=False))
