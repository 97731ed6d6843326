"""Answers over HTTP have the form that was asked for, whole, on one rank and on two; 500 of them with `--full`."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Build
from tests.e2e.server import serving

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from eval_structured import evaluate

CHAT = "/v1/chat/completions"

CACHE_KIB = 2304
"""On all ranks together: for 576 tokens, which is more than the longest request takes."""

AT_ONCE = 16


@pytest.mark.parametrize("tp", (1, 2))
def test_answers_at_temperature_1_are_valid_and_complete(tp: int, build: Build, tmp_path: Path, full: bool) -> None:
    """With a cache that all of them at once do not fit into, so that some are thrown out amid their text."""
    engine = build("demo", "--quant", "int8", "--tp-size", str(tp), "--dtype", "float32")
    cache = f"{CACHE_KIB // tp}KiB"
    flags = ("--kv-cache-memory", cache, "--max-num-seqs", str(AT_ONCE))
    with serving(engine, tmp_path / "log", *flags, ranks=tp) as server, ThreadPoolExecutor(1) as pool:
        evaluate(server.base, AT_ONCE, seed=tp, at_once=1)  # so that the grammars are there, and nobody waits for them
        assert server.metric("llmserve_num_preemptions_total") == 0
        with server.held(AT_ONCE):
            evaluation = pool.submit(evaluate, server.base, 500 if full else 40, seed=tp, at_once=AT_ONCE)
        outcomes = evaluation.result()
        preemptions = server.metric("llmserve_num_preemptions_total")
    assert [(each.problem, each.asked, each.text) for each in outcomes if each.problem] == []
    assert preemptions > 0


def test_a_hostile_grammar_is_its_own_clients_matter(build: Build, tmp_path: Path) -> None:
    """It is refused, or ends in an error of that request; whoever asks after it is answered as before."""
    engine = build("demo", "--quant", "int8", "--tp-size", "2", "--dtype", "float32")
    question = {"messages": [{"role": "user", "content": "What is 3 plus 4?"}], "temperature": 0, "max_tokens": 20}
    with serving(engine, tmp_path / "log", ranks=2) as server:
        post = httpx.Client(base_url=server.base, timeout=120).post
        before = post(CHAT, json=question).json()["choices"]
        bomb = {"regex": "((a{1,1000}){1,1000}){1,1000}"}
        chain = {"grammar": "start: r0\n" + "\n".join(f'r{i}: r{i + 1} "a"' for i in range(8000)) + '\nr8000: "a"'}
        deep = {"grammar": "start: " + "(" * 100_000}
        for form in (bomb, chain, deep):
            told = post(CHAT, json={**question, "max_tokens": 300, "structured_outputs": form})
            assert told.status_code in (200, 400, 500)  # the bomb can be followed for as long as it is not grasped
            if told.status_code != 200:
                message = told.json()["error"]["message"]
                assert "grammar" in message or "a form that no answer can be held to" in message
                assert len(message) < 1000
            assert post(CHAT, json=question).json()["choices"] == before


def test_a_stream_is_the_whole_answer_and_a_seed_brings_it_back(build: Build, tmp_path: Path) -> None:
    engine = build("demo", "--quant", "int8", "--tp-size", "2", "--dtype", "float32")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 20}, "b": {"enum": [1, 2]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    with serving(engine, tmp_path / "log", ranks=2) as server:
        create = server.client.chat.completions.create
        asked = {
            "model": server.model, "messages": [{"role": "user", "content": "Hello."}], "response_format": form,
            "temperature": 1.0, "seed": 7, "n": 3, "logprobs": True,
        }  # fmt: skip
        whole = create(**asked)
        parts = ["", "", ""]
        for chunk in create(**asked, stream=True):
            for choice in chunk.choices:
                parts[choice.index] += choice.delta.content or ""
    assert parts == [choice.message.content for choice in whole.choices]
    assert len(set(parts)) > 1
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        assert json.loads(choice.message.content).keys() == {"a", "b"}
        assert choice.logprobs is not None
