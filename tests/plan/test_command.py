"""`llmserve plan` as it is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmserve.cli import app
from llmserve.cli_options import EngineOptions
from llmserve.errors import LlmserveError
from llmserve.models import read_config
from llmserve.plan.machines import GPUS
from llmserve.runtime.kv_cache import DEFAULT_TOTAL, plan_kv_cache
from tests.plan.ask import real_configs
from tests.tiny import build, tiny_checkpoint


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    """The config.json of Qwen2.5-7B, and nothing else."""
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(real_configs()["qwen2.5-7b"]["config"]))
    return str(tmp_path / "qwen")


def plan(*words: str) -> str:
    done = CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "160"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def plan_json(*words: str) -> dict[str, Any]:
    return json.loads(plan(*words, "--json"))


def refusal(*words: str) -> str:
    with pytest.raises(LlmserveError) as caught:
        plan(*words)
    message = str(caught.value)
    assert message.endswith(".")
    return message


def test_one_gpu(qwen: str) -> None:
    told = plan_json(qwen, "--gpu", "H200", "--tp-size", "2", "--quant", "int4", "--max-model-len", "8192")
    assert (told["device"], told["tp_size"], told["quant"], told["head_quant"]) == ("cuda", 2, "int4", "int8")
    assert told["kv_cache"] == {"dtype": "bfloat16", "block_size": 16, "bytes_per_token": 28 * 2 * 2 * 128 * 2}
    (found,) = told["machines"]
    assert found["fits"]
    assert found["machine"]["name"] == "H200"
    assert found["usable"] == int(141e9 * 0.9)
    assert found["max_model_len"] == 8192
    text = plan(qwen, "--gpu", "H200", "--tp-size", "2", "--quant", "int4", "--max-model-len", "8192")
    assert "verdict: fits, with sequences of 8,192 tokens." in text
    assert f"{found['tokens']:,} tokens" in text
    memory = f"--kv-cache-memory {found['kv_cache_memory'] // 10**6}MB"
    assert f"start it with `llmserve run ENGINE {memory} --max-model-len 8192`" in text
    assert not re.search("[KMG]iB", text), "one system of units"
    assert "without --kv-cache-memory it takes 4.29 GB over all ranks." in " ".join(text.split())


def test_a_plan_says_what_run_makes_of_the_model_without_the_flag(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(real_configs()["qwen3-8b"]["config"]))
    token = 36 * 2 * 8 * 128 * 2
    tokens = DEFAULT_TOTAL // (16 * token) * 16
    assert tokens < 40960, "the model's"
    text = " ".join(plan(str(config), "--gpu", "H200", "--max-num-seqs", "9").split())
    assert re.search(r"run ENGINE --kv-cache-memory \d+MB --max-num-seqs 9`", text)
    assert "verdict: fits, with sequences of 40,960 tokens." in text
    told = f"it takes {tokens * token / 1e9:.2f} GB over all ranks, enough for sequences of {tokens:,} tokens."
    assert f"without --kv-cache-memory {told}" in text


def test_the_command_makes_what_was_planned(tmp_path: Path) -> None:
    """`run`'s own arithmetic, given the flags that are printed, on a host that does not hold the model's context."""
    raw = real_configs()["qwen3-8b"]["config"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    words = [str(tmp_path), "--memory", "14GB", "--quant", "int8"]
    told = plan_json(*words)
    (found,) = told["machines"]
    printed = re.search(r"`llmserve run ENGINE (.*)`", plan(*words))
    assert printed is not None
    flags = dict(zip(printed[1].split()[::2], printed[1].split()[1::2], strict=True))
    assert flags.keys() == {"--kv-cache-memory", "--max-model-len"}
    memory, length = flags["--kv-cache-memory"], int(flags["--max-model-len"])
    config = EngineOptions(kv_cache_memory=memory, max_model_len=length).config()
    layer_bytes = told["kv_cache"]["bytes_per_token"] * config.block_size // raw["num_hidden_layers"]
    made = plan_kv_cache(config, read_config(raw), "bfloat16", 1, layer_bytes)
    assert (made.num_tokens, made.max_model_len) == (found["tokens"], found["max_model_len"])
    assert made.max_model_len < 40960


def test_a_model_that_4_gib_are_plenty_for_needs_no_flag() -> None:
    """64 sequences of the demo's 1,024 tokens."""
    told = plan_json("demo", "--gpu", "L4")
    size = f"{64 * 1024 * told['kv_cache']['bytes_per_token'] / 1e9:.2f} GB"
    text = " ".join(plan("demo", "--gpu", "L4").split())
    assert f"start it with `llmserve run ENGINE` it takes {size} of KV cache over all ranks" in text


def test_without_a_machine_it_is_all_gpus(qwen: str) -> None:
    told = plan_json(qwen)
    assert [found["machine"]["name"] for found in told["machines"]] == [gpu.name for gpu in GPUS]
    assert not any(found["advice"] for found in told["machines"])
    assert all(gpu.name in plan(qwen) for gpu in GPUS)


def test_what_does_not_fit_is_followed_by_what_would(qwen: str) -> None:
    (found,) = plan_json(qwen, "--gpu", "L4", "--max-model-len", "32768", "--memory", "12GB")["machines"]
    assert not found["fits"]
    assert found["machine"]["memory"] == 12e9
    assert found["machine"]["bandwidth"] == 300e9
    assert found["advice"]
    assert "verdict: does not fit: " in plan(qwen, "--gpu", "L4", "--max-model-len", "32768", "--memory", "12GB")


def test_a_machine_without_a_name_is_a_host_whose_ranks_share_it(qwen: str) -> None:
    words = [qwen, "--quant", "int8", "--memory", "24GiB"]
    alone = plan_json(*words, "--bandwidth", "60GB/s")
    together = plan_json(*words, "--bandwidth", "60GB/s", "--tp-size", "2")
    assert (alone["device"], alone["machines"][0]["machine"]["name"]) == ("cpu", "given")
    assert together["machines"][0]["memory"] * 2 == alone["machines"][0]["memory"] == 24 << 30
    assert plan_json(*words)["machines"][0]["at"][0]["tokens_per_second_one"] is None
    assert plan_json(qwen, "--memory", "24GiB", "--device", "cuda")["device"] == "cuda"
    assert plan_json(qwen, "--gpu", "cpu", "--quant", "int4", "--memory", "1TB")["machines"][0]["fits"]


def test_settings_come_from_a_file_and_flags_win(qwen: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "checkpoint: org/name\ndtype: bfloat16\nvariants:\n  a: {quant: int8, tp_size: 2, fits: {L4: 8192}}\n"
        "  b: {backend: tensorrt-llm, quant: int4, max_batch_size: 3, max_seq_len: 2048, max_num_tokens: 512,"
        " max_input_len: 1024}\n"
    )
    config = ["--config", str(file), "--gpu", "H100"]
    a = plan_json(qwen, *config, "--variant", "a", "--tp-size", "1")
    assert (a["backend"], a["quant"], a["tp_size"]) == ("native", "int8", 1)
    b = plan_json(qwen, *config, "--variant", "b")
    assert (b["backend"], b["quant"], b["head_quant"]) == ("tensorrt-llm", "int4", "none")
    (found,) = b["machines"]
    assert found["max_model_len"] == 2048
    assert {at["sequences"] for at in found["at"]} == {3}
    assert "weights" in b["estimated"]
    text = plan(qwen, *config, "--variant", "b")
    assert "about" in text
    assert "estimate" in text


def test_an_engine_is_as_it_is(tmp_path: Path) -> None:
    engine = str(build(tiny_checkpoint(tmp_path / "tiny").folder, tmp_path / "engine", quant="int8", tp_size=2))
    told = plan_json(engine)
    assert (told["device"], told["tp_size"], told["quant"]) == ("cpu", 2, "int8")
    assert refusal(engine, "--quant", "int4").startswith("--quant is of a build, and this engine is built already")
    assert refusal(engine, "--gpu", "L4").startswith("--gpu L4 is not what this engine, built for cpu, runs on")
    assert refusal(engine, "--backend", "tensorrt-llm").startswith("this is a native engine")


@pytest.mark.parametrize(
    "words, problem",
    [
        (["--bandwidth", "3GB/s"], "--bandwidth is of a machine"),
        (["--gpu", "L4", "--bandwidth", "fast"], "'fast' is not a bandwidth; write it like 60GB/s"),
        (["--gpu", "L4", "--memory-utilization", "1.5"], "--memory-utilization 1.5 is not a share"),
        (["--gpu", "L4", "--device", "cpu"], "--gpu L4 is not what an engine for --device cpu runs on"),
        (["--gpu", "cpu", "--device", "cuda"], "--gpu cpu is not what an engine for --device cuda runs on"),
        (
            ["--gpu", "cpu", "--backend", "tensorrt-llm"],
            "--gpu cpu is not what an engine of TensorRT-LLM runs on",
        ),
        (["--memory", "24"], "'24' has no unit, so it is not a size; write it like 512MiB"),
        (["--gpu", "L4", "--bandwidth", "60"], "'60' is not a bandwidth; write it like 60GB/s"),
        (["--tp-size", "5"], "tp_size=5 does not divide the model's number of attention heads (28)"),
        (["--variant", "a"], "--variant a is of a file of settings"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(qwen: str, words: list[str], problem: str) -> None:
    assert refusal(qwen, *words).startswith(problem)


def test_what_a_file_said_is_refused_by_the_files_words(qwen: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "variants:\n  long: {backend: tensorrt-llm, max_seq_len: 40000}\n  gpu: {device: cuda}\n  odd: {quant: int3}\n"
    )

    def refused(variant: str, *words: str) -> str:
        return refusal(qwen, "--config", str(file), "--variant", variant, *words)

    assert refused("long").startswith("max_seq_len 40000 of --config exceeds the 32768 positions")
    assert refused("long", "--max-model-len", "50000").startswith("--max-model-len 50000 exceeds the 32768 positions")
    assert refused("gpu", "--gpu", "cpu").startswith("--gpu cpu is not what an engine for `device: cuda` of --config")
    assert refused("odd").startswith("quant of --config 'int3' cannot be used: input should be 'none', 'int8' or")


def test_the_checkpoint_may_be_the_files(qwen: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"checkpoint: {qwen}\ndtype: bfloat16\n")
    assert plan_json("--config", str(file))["model"] == "qwen"
    done = CliRunner().invoke(app, ["plan", "demo", "--config", str(file), "--gpu", "L4"])
    assert done.stderr == f"llmserve: {file} is for {qwen}, and its settings are used for demo.\n"


def test_a_build_config_is_told_from_a_model(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("model: Qwen/Qwen3-8B\n")
    assert refusal(str(file)) == f"{file} is a build config and no model; give it with --config {file}."
