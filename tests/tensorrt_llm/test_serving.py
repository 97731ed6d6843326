"""`mpirun -n 2 llmserve run` on an engine of TensorRT-LLM, through HTTP: real processes, and the stand-in in them.

One server for all that leaves it alive.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llmserve.tokenizer import Tokenizer
from tests.e2e.server import Server, serving
from tests.tensorrt_llm.conftest import Built
from tests.tensorrt_llm.standin import SITE, StandIn

VOCABULARY = 1680
QUEUE = 40  # and 4 that run


@dataclass(frozen=True)
class Running:
    server: Server
    stand_in: StandIn
    tokenizer: Tokenizer

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.server.base}{path}", json={"model": "demo", **body}, timeout=30)


@pytest.fixture(scope="module")
def running(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serving")
    stand_in = StandIn(folder / "standin", iteration_seconds=0.004)
    flags = ("--max-queue", str(QUEUE), "--stall-timeout", "60", "--shutdown-timeout", "600")
    with serving(built.path, folder / "log", *flags, ranks=2, variables=stand_in.environment()) as server:
        yield Running(server, stand_in, Tokenizer.load(built.path))


@pytest.fixture(scope="module")
def answer() -> Iterator[Callable[..., list[int]]]:
    """answer(prompt, count, vocabulary, seed) of the stand-in's."""
    source = (SITE / "tensorrt_llm" / "_answers.py").read_text("utf-8")
    module: dict[str, Any] = {}
    exec(compile(source, "_answers.py", "exec"), module)
    return module["answer"]


def wait_for(what: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def test_a_chat_streams(running: Running, answer: Callable[..., list[int]]) -> None:
    messages = [{"role": "user", "content": "What is 7 plus 8?"}]
    prompt = running.post("/tokenize", messages=messages).json()["tokens"]
    stream = running.server.client.chat.completions.create(
        model="demo", messages=messages, stream=True, max_tokens=30, temperature=0
    )
    told = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in told) == running.tokenizer.decode(
        answer(prompt, 30, VOCABULARY), skip_special_tokens=True
    )
    assert told[-1].finish_reason == "length"


def test_32_at_once_get_their_own_answers(running: Running, answer: Callable[..., list[int]]) -> None:
    def ask(i: int) -> list[int]:
        body = {"prompt": [i, 7, 8], "max_tokens": 12, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
        response = running.post("/v1/completions", **body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["token_ids"]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(32)))
    assert answers == [answer([i, 7, 8], 12, VOCABULARY) for i in range(32)]


def test_a_client_that_leaves_cancels(running: Running) -> None:
    """What runs and what waits; together it would take 40 seconds."""
    before = len(running.stand_in.calls("cancel_request"))
    body = {"model": "demo", "prompt": [1, 2], "n": 4 + QUEUE, "max_tokens": 900, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{running.server.base}/v1/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()  # kept: letting go of it closes the connection
        next(lines)
        wait_for(lambda: running.server.metric("llmserve_num_requests_running") == 4)
    wait_for(lambda: len(running.stand_in.calls("cancel_request")) > before + 4)
    wait_for(lambda: running.server.metric("llmserve_num_requests_running") == 0)


def test_a_full_queue_is_a_429(running: Running) -> None:
    running.stand_in.switch("hang")
    client = running.server.client
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.completions.create, model="demo", prompt=[5], n=4 + QUEUE, max_tokens=2)
        try:
            wait_for(lambda: len(_open(running)) == 4 + QUEUE)
            with pytest.raises(openai.RateLimitError) as refusal:
                client.completions.create(model="demo", prompt=[5], max_tokens=2)
            assert int(refusal.value.response.headers["retry-after"]) >= 1
        finally:
            running.stand_in.switch("hang", False)
        assert len(held.result().choices) == 4 + QUEUE


def _open(running: Running) -> list[Any]:
    """The requests for the prompt [5], of which only that test has any."""
    return [c for c in running.stand_in.calls("enqueue_request") if c["request"]["input_token_ids"] == [5]]


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt_logprobs": 0},
        {"logprobs": 1},
        {"logit_bias": {"5": 1}},
        {"allowed_token_ids": [5]},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"priority": 1},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a+"}},
        {"min_tokens": 1},
    ],
)
def test_what_the_engine_cannot_do_is_a_400_that_names_it(running: Running, asked: dict[str, Any]) -> None:
    response = running.post("/v1/completions", prompt=[1, 2], max_tokens=2, **asked)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    (name,) = asked
    assert error["param"].split(".")[0] == name
    assert name in error["message"]
    assert "tensorrt-llm" in error["message"]


def test_a_call_that_must_be_a_tools_is_refused_and_one_that_may_be_is_not(running: Running) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    for forced, status in (("required", 400), ("none", 200)):
        assert running.post("/v1/chat/completions", **body, tools=[tool], tool_choice=forced).status_code == status


def test_vectors_are_refused(running: Running) -> None:
    response = running.post("/v1/embeddings", input="hi")
    assert response.status_code == 400
    assert "makes no vectors" in response.json()["error"]["message"]


def test_stop_strings_stop_tokens_and_log_probabilities(running: Running, answer: Callable[..., list[int]]) -> None:
    tokens = answer([9, 9], 20, VOCABULARY)
    body = {"prompt": [9, 9], "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    ends = body | {"ignore_eos": False, "stop_token_ids": [tokens[4]]}
    [choice] = running.post("/v1/completions", **ends).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", tokens[4])
    whole = running.post("/v1/completions", **body, logprobs=0).json()
    [choice] = whole["choices"]
    assert whole["usage"]["completion_tokens"] == 20
    assert len(choice["logprobs"]["token_logprobs"]) == 20
    stop = choice["text"][6:9]
    [cut] = running.post("/v1/completions", **body, stop=[stop]).json()["choices"]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == choice["text"][: choice["text"].index(stop)]


def test_metrics_are_the_executors_own(running: Running) -> None:
    prompt = list(range(600, 700))
    usages = [
        running.post("/v1/completions", prompt=prompt, max_tokens=5).json()["usage"]["prompt_tokens_details"]
        for _ in range(2)
    ]
    assert [usage["cached_tokens"] for usage in usages] == [0, 96]
    assert running.server.metric("llmserve_kv_cache_tokens") == 1024 * 32
    assert running.server.metric("llmserve_max_num_seqs") == 4
    assert running.server.metric("llmserve_max_model_len") == 1000
    assert running.server.metric("llmserve_prompt_tokens_cached_total") >= 96

    def one_more() -> float:  # figures travel with events
        running.post("/v1/completions", prompt=[1], max_tokens=1)
        return running.server.metric("llmserve_prefix_cache_hits_total")

    wait_for(lambda: one_more() >= 96)
    assert running.server.metric("llmserve_engine_steps_total") > 0


def test_all_ranks_made_the_same_executor_and_one_leads(running: Running) -> None:
    [leader], [other] = (running.stand_in.calls("Executor", rank) for rank in (0, 1))
    assert leader == other
    assert not running.stand_in.calls("enqueue_request", 1)


def test_stopping_finishes_what_runs_and_sends_every_rank_home(running: Running) -> None:
    """The last test of that server."""
    with ThreadPoolExecutor(2) as pool:
        leader = running.server.ranks()[0]
        streams = streaming(running.server, 2, pool, max_tokens=200)
        leader.send_signal(signal.SIGTERM)
        assert [stream.result(60) for stream in streams] == [None, None]
    assert running.server.wait(30) == 0, running.server.log
    assert [len(running.stand_in.calls("shutdown", rank)) for rank in (0, 1)] == [1, 1]


def streaming(server: Server, count: int, pool: ThreadPoolExecutor, max_tokens: int = 900) -> list[Any]:
    """So many streams that have begun; each gives the error that ended it."""

    def read(stream: Any) -> Exception | None:
        try:
            for _ in stream:
                pass
        except (openai.APIError, httpx.HTTPError) as e:
            return e
        return None

    def begin() -> Any:
        stream = server.client.completions.create(
            model="demo", prompt=[3, 4], max_tokens=max_tokens, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        return stream

    return [pool.submit(read, stream) for stream in pool.map(lambda _: begin(), range(count))]


@pytest.mark.parametrize(
    "switch, patience, told",
    [("die-1", 60, "another rank of the engine is gone"), ("hang", 5, "no step for 5 s")],
    ids=("die-1", "hang"),
)
def test_a_lost_rank_and_a_hang_reach_every_client_and_end_the_job(
    built: Built, tmp_path: Path, switch: str, patience: int, told: str
) -> None:
    """Rank 0 may be ended before it has said why, by mpirun or by its guard: test_engine_alone has what it says."""
    stand_in, flags = StandIn(tmp_path / "standin", iteration_seconds=0.02), ("--stall-timeout", str(patience))
    started = serving(built.path, tmp_path / "log", *flags, ranks=2, variables=stand_in.environment())
    with started as server, ThreadPoolExecutor(4) as pool:
        streams = streaming(server, 4, pool)
        stand_in.switch(switch)
        for stream in streams:
            error = stream.result(30)
            assert isinstance(error, openai.APIError), f"{error!r}\n{server.log}"
            assert told in str(error) or "engine stopped unexpectedly" in str(error)
        assert server.wait(30) != 0, server.log
        if switch == "hang":
            assert told in server.log
            assert server.log.count("most recent call first") >= 2, "stacks of both ranks' threads"


@pytest.mark.parametrize(
    "ranks, settings, told",
    [
        (2, {"version": "1.2.0"}, "rank 1: tensorrt_llm 1.2.0 is installed, and llmserve works with"),
        (None, {"sm": [8, 0], "device_name": "A100"}, "compute capability 8.0 (A100), and the engine was"),
    ],
    ids=("version, under mpirun", "GPU, by llmserve alone"),
)
def test_ranks_that_do_not_fit_are_a_sentence_before_any_collective(
    built: Built, tmp_path: Path, ranks: int | None, settings: dict[str, Any], told: str
) -> None:
    stand_in, log = StandIn(tmp_path / "standin", ranks={1: settings}), tmp_path / "log"
    with suppress(AssertionError), serving(built.path, log, ranks=ranks, variables=stand_in.environment()):
        pytest.fail("it must not start")
    assert log.read_text().count(told) == 1, log.read_text()
    assert not [call for rank in (0, 1) for call in stand_in.calls("Executor", rank)]
    assert "Traceback" not in log.read_text()


def test_the_wrong_number_of_ranks_is_a_sentence(built: Built, tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path / "standin")
    expected = pytest.raises(AssertionError, match=r"was built for tp_size=2 but 3 ranks are running")
    with expected, serving(built.path, tmp_path / "log", ranks=3, variables=stand_in.environment()):
        pass
    assert not stand_in.calls("Executor")
