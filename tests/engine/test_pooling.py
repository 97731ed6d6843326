"""A prompt's vector depends on the prompt alone, as every answer does; and it is what the model's hidden states say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm import Comm
from llmserve.config import EngineConfig
from llmserve.request import NO_SAMPLING, Finish, Pooling, Request
from llmserve.runtime.load import device_of, load_runner
from llmserve.runtime.pooling import Pooler
from llmserve.scheduler.plan import Chunk, StepPlan
from tests.engine.answers import Answer, Built, Engine, alone, assert_same
from tests.engine.conftest import ENGINES
from tests.kernels import KERNELS
from tests.shared import shared
from tests.thread_ranks import run_ranks
from tests.tiny import build, tiny_checkpoint

TOLERANCE = 1e-4
"""Of a vector's numbers; its length is 1."""

FEW = [name for name in ("float32", "int4, int8 KV, windows", "reference") if name in ENGINES]
on_some_engines = pytest.mark.parametrize("built", FEW, indirect=True)
"""What is tested here is how hidden states are asked for and added up; what they are, every other test says."""
on_kernels = pytest.mark.parametrize("built", FEW[:2], indirect=True)


@pytest.fixture(scope="module")
def pooled(requests: list[Request]) -> list[Request]:
    """Short and long prompts, of which some begin alike, each in both ways."""
    return [
        Request(200 + 10 * i + j, request.prompt, NO_SAMPLING, pooling=pooling)
        for i, request in enumerate(requests[k] for k in (0, 2, 5, 8))
        for j, pooling in enumerate(Pooling)
    ]


@pytest.fixture(scope="module")
def vectors(built: Built, pooled: list[Request]) -> dict[int, Answer]:
    return alone(built, pooled)


def mixed(requests: list[Request]) -> list[Request]:
    return sorted(requests, key=lambda request: request.id % 7)


def check(engine: Engine, expected: dict[int, Answer]) -> None:
    for i, answer in expected.items():
        assert_same(engine.answers[i], answer, engine.built)


@on_some_engines
def test_they_are_of_length_one_and_no_two_are_alike(pooled: list[Request], vectors: dict[int, Answer]) -> None:
    told = [vectors[request.id] for request in pooled]
    assert all((answer.finish, answer.tokens) == (Finish.STOP, []) for answer in told)
    rows = np.array([answer.vector for answer in told])
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    same = np.argwhere(np.triu(rows @ rows.T > 0.9999, 1)).tolist()
    one_token = [i for i, request in enumerate(pooled) if len(request.prompt) == 1]
    assert same == [one_token]


@on_some_engines
@pytest.mark.parametrize("budget", [5, 37])
def test_batched_and_chunked_is_as_alone(
    built: Built, requests: list[Request], pooled: list[Request], expected: dict[int, Answer],
    vectors: dict[int, Answer], budget: int,
) -> None:  # fmt: skip
    engine = Engine(built, prefix_caching=False, max_num_batched_tokens=budget)
    engine.run(mixed(pooled + requests))
    check(engine, expected | vectors)
    assert not engine.native._pooler._sums


@on_some_engines
def test_cached_is_as_cold(built: Built, pooled: list[Request], vectors: dict[int, Answer]) -> None:
    engine = Engine(built)
    engine.run(pooled)
    check(engine, vectors)
    again = engine.run([replace(request, id=request.id + 1000) for request in pooled])
    for request in pooled:
        answer = again[request.id + 1000]
        assert_same(answer, vectors[request.id], built)
        whole_blocks = (len(request.prompt) - 1) // 16 * 16
        assert answer.cached_tokens == (whole_blocks if request.pooling is Pooling.LAST else 0)


@on_kernels
def test_preempted_is_as_undisturbed(
    built: Built, long_requests: list[Request], pooled: list[Request], long_expected: dict[int, Answer],
    vectors: dict[int, Answer],
) -> None:  # fmt: skip
    """Chunks are small, so that those who grow push out some that are in the middle of their prompts."""
    block = Engine(built, block_size=16, max_num_seqs=1).native.kv.block_bytes
    engine = Engine(built, kv_cache_memory=8 * block, max_num_batched_tokens=12, overlap=True)
    engine.run(mixed(long_requests + pooled))
    check(engine, long_expected | vectors)
    assert engine.native.stats().preemptions > 0
    assert not engine.native._pooler._sums


@on_some_engines
def test_who_leaves_in_the_middle_leaves_nothing_behind(built: Built, pooled: list[Request]) -> None:
    engine = Engine(built, max_num_batched_tokens=4)
    long = [request for request in pooled if len(request.prompt) == 64]
    for request in long:
        engine.submit(request)
    engine.step()
    assert engine.native._pooler._sums
    engine.add(filter(None, [engine.native.abort(request.id) for request in long]))
    assert [engine.answers[request.id].finish for request in long] == [Finish.ABORT] * 2
    timed = replace(long[0], id=1, timeout=1e-9)
    engine.run([timed])
    assert engine.answers[1].finish is Finish.TIMEOUT
    engine.submit(replace(long[0], id=2))
    engine.step()
    engine.add(engine.native.abort_all(Finish.ERROR, "It broke."))
    assert not engine.native._pooler._sums


def states_of(model: Any, prompt: tuple[int, ...]) -> Tensor:
    """transformers' hidden states behind the final norm, [tokens, hidden_size]."""
    with torch.inference_mode():
        return model.model(torch.tensor([prompt])).last_hidden_state[0]


def vector_of(states: Tensor, pooling: Pooling | None) -> list[float]:
    pooled = states.double().mean(0) if pooling is Pooling.MEAN else states[-1].double()
    return (pooled / pooled.norm()).tolist()


@pytest.mark.parametrize("kernels", [*KERNELS[:1], "reference"])
@pytest.mark.parametrize("ranks, hosts", [(1, 1), (2, 1), (2, 2)])
def test_every_rank_has_the_hidden_states_that_transformers_has(
    tmp_path: Path, kernels: str, ranks: int, hosts: int
) -> None:
    """Ranks in shared memory, and over MPI's way. In a step with one that wants logits, in two chunks."""
    tiny, prompt, other = tiny_checkpoint(tmp_path / "tiny", "qwen2"), tuple(range(5, 45)), (7, 8, 9)
    engine = EngineDir.open(build(tiny.folder, tmp_path / "engine", tp_size=ranks))
    config = EngineConfig(kernels=kernels)
    plans = [
        [Chunk(0, 0, 0, prompt[:30], (5, 3, 4), 0, hidden=20), Chunk(1, 0, 0, other, (8,), 2)],
        [Chunk(0, 30, 3, prompt[30:], (), 0, hidden=10)],
    ]

    def rank(comm: Comm) -> list[Tensor]:
        runner = load_runner(engine, config, comm, device_of(engine.manifest, 0)).runner
        rows = []
        for chunks in plans:
            logits = runner.execute(StepPlan.of(chunks)).clone()
            rows += [logits] if len(logits) else []
            rows.append(runner.hidden().clone())
        return rows

    logits, *got = run_ranks(ranks, rank, hosts=hosts)[0]
    assert torch.allclose(torch.cat(got), states_of(tiny.model, prompt)[10:], atol=TOLERANCE)
    assert torch.allclose(logits, tiny.logits(list(other), [])[1:], atol=10 * TOLERANCE)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_vectors_are_what_transformers_says_of_a_golden_checkpoint(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = shared(f"golden/{family}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    requests = [
        Request(2 * i + j, tuple(range(3, 3 + length)), NO_SAMPLING, pooling=pooling)
        for i, length in enumerate((1, 9, 40))
        for j, pooling in enumerate(Pooling)
    ]
    engine = Engine(Built(build(folder, tmp_path / "engine"), {"max_num_batched_tokens": 11}, None))
    for i, answer in engine.run(requests).items():
        states = states_of(model, requests[i].prompt)
        assert answer.vector == pytest.approx(vector_of(states, requests[i].pooling), abs=TOLERANCE)


@pytest.mark.parametrize("bad, reason", [(float("nan"), "not numbers"), (float("inf"), "not numbers"), (0.0, "zeros")])
def test_numbers_that_make_no_vector_are_an_error(bad: float, reason: str) -> None:
    for cut in (1, 2):
        pooler, rows = Pooler(), torch.zeros(2, 3)
        rows[0, 1] = bad
        told = [pooler.add(7, rows[:cut], complete=cut == 2)]
        if told[0].error is None and cut == 1:
            told.append(pooler.add(7, rows[1:], complete=True))
        assert told[-1].vector is None
        assert reason in (told[-1].error or "")
