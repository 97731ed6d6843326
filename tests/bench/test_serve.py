"""A real server under a load: every token is accounted for, every failure is told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve.bench.progress import BenchProgress
from llmserve.bench.serve import ServeResult, load_of, run_load
from llmserve.bench.serve_report import WIDTH, serving_block
from llmserve.bench.settings import ServeSettings
from llmserve.errors import LlmserveError
from tests.e2e.server import Server, serving

COUNT, INPUT, OUTPUT = 12, 20, 8


@pytest.fixture(scope="module")
def server(demo_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(demo_engine, tmp_path_factory.mktemp("log") / "log", "--max-model-len", "100") as running:
        yield running


def settings(url: str, **changed: object) -> ServeSettings:
    values = {
        "url": url, "model": None, "num_prompts": COUNT, "request_rate": float("inf"), "max_concurrency": None,
        "input_len": (INPUT, INPUT), "output_len": (OUTPUT, OUTPUT), "vocab_size": 1000, "warmup": 1, "timeout": 60.0,
        "seed": 0, "extra_body": {}, "api_key": None,
    }  # fmt: skip
    return ServeSettings.model_validate(values | changed)


def measure(asked: ServeSettings) -> ServeResult:
    load = load_of(asked, asked.num_prompts, asked.seed)
    return asyncio.run(run_load(asked, load, BenchProgress(1)))


def test_every_token_is_accounted_for(server: Server) -> None:
    before = server.metric("llmserve_generation_tokens_total")
    result = measure(settings(server.base, seed=1))
    figures = result.figures()
    assert result.model == "demo"
    assert (figures["completed"], figures["failed"]) == (COUNT, 0)
    assert figures["total_input_tokens"] == COUNT * INPUT
    assert figures["total_output_tokens"] == COUNT * OUTPUT
    assert server.metric("llmserve_generation_tokens_total") - before == (COUNT + 1) * OUTPUT  # and the warm-up's
    times = result.times()
    assert len(times["ttft"]) == len(times["tpot"]) == len(times["e2el"]) == COUNT
    assert len(times["itl"]) == COUNT * (OUTPUT - 1)
    assert sum(times["itl"]) == pytest.approx(sum(times["tpot"]) * (OUTPUT - 1))
    for sample in result.samples:
        assert len(sample.token_times) == sample.output_tokens == OUTPUT
        assert sample.sent < sample.token_times[0] <= sample.token_times[-1] <= sample.ended
    assert figures["duration"] >= max(times["e2el"])


def test_what_the_server_ended_for_want_of_time_is_no_success(server: Server) -> None:
    asked = settings(server.base, seed=5, warmup=0, extra_body={"timeout": 1e-6})
    result = measure(asked)
    figures = result.figures()
    assert (figures["completed"], figures["failed"], figures["timed_out"]) == (0, 0, COUNT)
    assert figures["total_output_tokens"] == 0
    assert any(line.split() == ["Timed", "out", "by", "the", "server:", str(COUNT)] for line in
               serving_block(result, asked).splitlines())  # fmt: skip


def test_lengths_from_a_range_add_up_too(server: Server) -> None:
    result = measure(settings(server.base, input_len=(3, 40), output_len=(1, 9), seed=2))
    assert all(sample.error is None and 1 <= len(sample.token_times) <= 9 for sample in result.samples)
    assert result.figures()["total_output_tokens"] == sum(len(s.token_times) for s in result.samples)
    assert sum(s.output_tokens < 2 for s in result.samples) == COUNT - len(result.times()["tpot"])


def test_requests_open_at_once_are_bounded(server: Server) -> None:
    result = measure(settings(server.base, max_concurrency=2, seed=3))
    for sample in result.samples:
        open_then = [s for s in result.samples if s.sent <= sample.sent < s.ended]
        assert len(open_then) <= 2


def test_requests_are_sent_when_they_are_due(server: Server) -> None:
    result = measure(settings(server.base, request_rate=40.0, seed=4))
    assert result.samples[-1].due > 0
    assert all(sample.sent >= sample.due for sample in result.samples)


def test_what_the_server_refuses_is_counted_with_its_message(server: Server) -> None:
    asked = settings(server.base, input_len=(80, 110), warmup=0, seed=5)
    result = measure(asked)
    failed = [sample for sample in result.samples if sample.error is not None]
    figures = result.figures()
    assert 0 < len(failed) < COUNT
    assert (figures["completed"], figures["failed"]) == (COUNT - len(failed), len(failed))
    assert figures["total_output_tokens"] == (COUNT - len(failed)) * OUTPUT
    assert "HTTP 400: This model's context holds 100 tokens" in str(result.first_error)
    last = serving_block(result, asked).splitlines()[-1]
    assert last == f"{len(failed)} of {COUNT} requests failed; the first: {result.first_error}"


def test_a_rehearsal_that_fails_ends_it_in_one_sentence(server: Server) -> None:
    with pytest.raises(LlmserveError, match=r"\(200 tokens in, 8 out\) failed: HTTP 400: This model's context"):
        measure(settings(server.base, input_len=(200, 200)))


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(LlmserveError, match=r"^http://127\.0\.0\.1:9 does not answer .*; start a server there"):
        measure(settings("http://127.0.0.1:9"))


def bench(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmserve", "bench", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_prints_the_block_and_writes_the_rest(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    done = bench("--serve", f"{server.base}/v1", "--num-prompts", "5", "--input-len", "9", "--output-len", "6",
                 "--api-key", "secret", "--seed", "6", "--json", str(file))  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert {len(line) for line in lines if line[0] in "=-"} == {WIDTH}
    assert "Successful requests:                     5" in lines
    assert "Total generated tokens:                  30" in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    data = json.loads(file.read_text())
    assert "secret" not in file.read_text()
    assert data.keys() == {"kind", "started", "versions", "machine", "config", "model", "results", "samples"}
    assert (data["kind"], data["model"], data["config"]["request_rate"]) == ("serve", "demo", "inf")
    assert data["results"]["total_output_tokens"] == sum(s["output_tokens"] for s in data["samples"]) == 30
    assert data["results"]["p99_itl_ms"] >= data["results"]["p90_itl_ms"] >= data["results"]["median_itl_ms"] >= 0
    assert [len(sample["itl_s"]) for sample in data["samples"]] == [5] * 5


def test_where_every_request_fails_the_command_fails(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    done = bench("--serve", server.base, "--num-prompts", "3", "--input-len", "300", "--warmup", "0",
                 "--json", str(file))  # fmt: skip
    assert done.returncode == 1
    assert "Failed requests:                         3" in done.stdout
    assert "llmserve: none of the 3 requests succeeded; the first: HTTP 400: This model's context" in done.stderr
    results = json.loads(file.read_text())["results"]
    assert (results["completed"], results["failed"], results["mean_ttft_ms"]) == (0, 3, None)
