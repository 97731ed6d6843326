"""The real TensorRT-LLM on real GPUs: a tiny random Qwen2, built and served, against transformers.

`python -m pytest -m gpu_trtllm` where tensorrt_llm is installed. It has not been run by us yet.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, serving

pytestmark = [
    pytest.mark.gpu_trtllm,
    pytest.mark.skipif(find_spec("tensorrt_llm") is None, reason="tensorrt_llm is not installed, or no GPU is here"),
]

SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 511,
}  # fmt: skip
PROMPTS = [[5, 6, 7], list(range(20, 120)), [400]]
TOLERANCE = 0.05
"""Of a logit in float16: a token this close to the likeliest one is as good."""


@dataclass(frozen=True)
class Running:
    server: Server
    model: Any  # transformers', in float16

    def complete(self, prompt: list[int], **body: Any) -> dict[str, Any]:
        asked = {"model": self.server.model, "prompt": prompt, "temperature": 0, "return_token_ids": True, **body}
        response = httpx.post(f"{self.server.base}/v1/completions", json=asked, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module", params=[1, 2], ids=["tp1", "tp2"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    import torch

    from tests.tiny import tiny_checkpoint

    if torch.cuda.device_count() < request.param:
        pytest.skip(f"{request.param} GPUs are needed, and {torch.cuda.device_count()} are here")
    folder = tmp_path_factory.mktemp("gpu")
    tiny = tiny_checkpoint(folder / "checkpoint", "qwen2", **SIZES)
    command = [sys.executable, "-m", "llmserve", "build", str(tiny.folder), "-o", str(folder / "engine")]
    command += ["--backend", "tensorrt-llm", "--dtype", "float16", "--tp-size", str(request.param)]
    subprocess.run([*command, "--max-batch-size", "8", "--max-num-tokens", "256"], check=True)
    with serving(folder / "engine", folder / "log", ranks=request.param) as server:
        yield Running(server, tiny.model.half().cuda())


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long", "one"])
def test_greedy_tokens_are_the_likeliest_of_transformers(running: Running, prompt: list[int]) -> None:
    import torch

    [choice] = running.complete(prompt, max_tokens=32, ignore_eos=True)["choices"]
    tokens = choice["token_ids"]
    assert len(tokens) == 32
    with torch.inference_mode():
        logits = running.model(torch.tensor([prompt + tokens]).cuda()).logits[0].float()
    rows = logits[len(prompt) - 1 : -1]
    chosen = rows[torch.arange(32), torch.tensor(tokens).cuda()]
    assert (rows.max(dim=1).values - chosen).max() <= TOLERANCE


def test_a_cached_prefix_changes_no_token(running: Running) -> None:
    first, second = (running.complete(PROMPTS[1], max_tokens=16, ignore_eos=True) for _ in range(2))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert first["choices"][0]["token_ids"] == second["choices"][0]["token_ids"]


def test_a_stop_token_ends_an_answer(running: Running) -> None:
    [whole] = running.complete(PROMPTS[0], max_tokens=16, ignore_eos=True)["choices"]
    stop = whole["token_ids"][5]
    cut = whole["token_ids"][: whole["token_ids"].index(stop) + 1]
    [choice] = running.complete(PROMPTS[0], max_tokens=16, stop_token_ids=[stop], ignore_eos=True)["choices"]
    assert (choice["token_ids"], choice["finish_reason"], choice["stop_reason"]) == (cut, "stop", stop)


def test_log_probabilities_are_the_models(running: Running) -> None:
    import torch

    [choice] = running.complete(PROMPTS[0], max_tokens=8, ignore_eos=True, logprobs=0)["choices"]
    told = torch.tensor(choice["logprobs"]["token_logprobs"])
    tokens = torch.tensor(PROMPTS[0] + choice["token_ids"]).cuda()
    with torch.inference_mode():
        rows = running.model(tokens[None]).logits[0].float().log_softmax(dim=1)[len(PROMPTS[0]) - 1 : -1]
    assert (rows[torch.arange(8), tokens[len(PROMPTS[0]) :]].cpu() - told).abs().max() <= TOLERANCE


def test_a_client_that_leaves_frees_its_place(running: Running) -> None:
    body = {"model": running.server.model, "prompt": [1], "max_tokens": 500, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{running.server.base}/v1/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 10
    while running.server.metric("llmserve_num_requests_running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_metrics_come_from_the_executor(running: Running) -> None:
    running.complete(PROMPTS[0], max_tokens=4)
    assert running.server.metric("llmserve_kv_cache_tokens") > 0
    assert running.server.metric("llmserve_engine_steps_total") > 0
