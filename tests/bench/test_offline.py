"""An engine in this process: what is planned within its limits, what is computed from times, and a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.bench.offline import Bench, Limits, make_plan
from llmserve.bench.offline_result import Case, Row, Timeline
from llmserve.bench.settings import OfflineSettings
from llmserve.config import EngineConfig
from llmserve.engine.offline import OfflineEngine
from llmserve.errors import ConfigError

LIMITS = Limits(vocab_size=96, max_model_len=100, max_num_seqs=8, kv_tokens=160, block_size=16)


def settings(**changed: object) -> OfflineSettings:
    values = {"prompt_lens": (8, 16), "batch_sizes": (1, 2), "new_tokens": 4, "repeats": 2, "seed": 0}
    return OfflineSettings.model_validate(values | changed)


def test_a_plan_within_the_limits_is_what_was_asked_for() -> None:
    plan = make_plan(settings(), LIMITS)
    assert plan.single == (Case(1, 8, 4), Case(1, 16, 4))
    assert plan.batches == (Case(1, 8, 4), Case(2, 8, 4))
    assert not plan.notes


def test_what_is_too_long_becomes_the_longest_once_and_is_noted() -> None:
    plan = make_plan(settings(prompt_lens=(8, 97, 2048)), LIMITS)
    assert [case.prompt_len for case in plan.single] == [8, 96]
    assert plan.notes == ("prompts have 96 tokens and not 97, 2048: it is the most that leaves room for 4 new ones.",)


def test_batches_that_would_have_to_wait_are_left_out_and_noted() -> None:
    plan = make_plan(settings(batch_sizes=(4, 8, 9)), LIMITS)
    assert [case.batch for case in plan.batches] == [4, 8]
    assert plan.notes == ("batches of 9 are left out: --max-num-seqs or the KV cache does not hold them at once.",)
    # 17 tokens are two blocks of 16, and the cache has ten
    assert [c.batch for c in make_plan(settings(prompt_lens=(13,), batch_sizes=(5, 6)), LIMITS).batches] == [5]


def test_no_room_for_a_prompt_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^--new-tokens 100 leaves no room .* of 100; lower it\.$"):
        make_plan(settings(new_tokens=100), LIMITS)


def test_prefill_and_decode_are_kept_apart() -> None:
    run = Timeline(Case(1, 10, 5), ((2.0, 2.5, 3.0, 3.5, 4.0),))
    assert (run.ttft, run.tpot) == (2.0, 0.5)
    assert run.prefill_rate == 10 / 2
    assert run.decode_rate == 1 / run.tpot == 4 / (4 - 2)
    assert run.output_rate == 5 / 4


def test_decode_is_measured_while_all_sequences_decode() -> None:
    """The second's prompt was computed a step later: what came before its first token does not count."""
    run = Timeline(Case(2, 10, 4), ((1.0, 2.0, 3.0, 4.0), (2.0, 3.0, 4.0, 5.0)))
    assert run.decode_rate == (2 + 2) / (4 - 2)
    assert run.prefill_rate == 20 / 2
    assert Timeline(Case(2, 10, 2), ((1.0, 2.0), (2.0, 3.0))).decode_rate is None


def test_a_row_has_the_medians_of_its_runs() -> None:
    case = Case(1, 10, 2)
    figures = Row(case, tuple(Timeline(case, ((first, first + 1),)) for first in (5.0, 1.0, 2.0))).figures()
    assert (figures["ttft_ms"], figures["tpot_ms"], figures["prefill_tok_s"]) == (2000, 1000, 5)


def test_every_run_has_prompts_of_its_own_and_all_its_tokens(demo_engine: Path) -> None:
    offline = OfflineEngine(demo_engine, EngineConfig(threads=1))
    bench = Bench(offline, 1680, seed=0)
    for _ in range(2):
        run = bench.run(Case(3, 40, 6))
        assert [len(own) for own in run.times] == [6, 6, 6]
        assert all(own == tuple(sorted(own)) for own in run.times)
    assert offline.engine.stats().prefix_hits == 0


def test_the_command_prints_its_figures_and_writes_them(demo_engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, "-m", "llmserve", "bench", str(demo_engine), "--prompt-lens", "16,4096",
               "--batch-sizes", "1,3", "--new-tokens", "4", "--repeats", "2", "--threads", "1",
               "--max-model-len", "64", "--json", str(file)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "demo int8 float32, one sequence" in done.stdout
    assert "note: prompts have 60 tokens and not 4096" in done.stdout
    data = json.loads(file.read_text())
    assert data.keys() == {"kind", "started", "versions", "machine", "config", "engine", "results"}
    assert data["kind"] == "offline"
    assert data["config"]["engine"]["threads"] == 1
    assert data["config"]["bench"]["repeats"] == 2
    assert data["versions"].keys() == {"llmserve", "python", "torch", "numpy", "httpx"}
    assert [(row["batch"], row["prompt_len"]) for row in data["results"]["single"]] == [(1, 16), (1, 60)]
    assert [(row["batch"], row["prompt_len"]) for row in data["results"]["batches"]] == [(1, 16), (3, 16)]
    for row in data["results"]["single"] + data["results"]["batches"]:
        assert min(row[key] for key in ("ttft_ms", "tpot_ms", "prefill_tok_s", "decode_tok_s", "output_tok_s")) > 0
        assert [[len(own) for own in run] for run in row["token_times_s"]] == [[4] * row["batch"]] * 2
