"""The command line as a process: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.build_file import read_chosen
from llmserve.config import BuildConfig, EngineConfig, validated
from llmserve.errors import ConfigError
from tests.tiny import tiny_checkpoint

LLMSERVE = [sys.executable, "-m", "llmserve"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("env", [{}, ASCII], ids=["utf-8", "ascii"])
def test_names_with_brackets_and_terminals_without_times_signs(tmp_path: Path, env: dict[str, str]) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "a[red]c").folder
    engine = tmp_path / "x[/y]:smile:"
    for command in (["build", checkpoint, "-o", engine], ["inspect", engine, "--tensors"]):
        done = subprocess.run([*LLMSERVE, *map(str, command)], env={**os.environ, **env, "COLUMNS": "300"},
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = "".join(done.stdout.split())  # a title is as wide as its table
        assert "a[red]c" in shown
        assert "x[/y]:smile:" in shown


SLOW = """
import sys, time
from llmserve.cli import main
def wait(*_):
    print("ready", flush=True)
    time.sleep(60)
import llmserve.checkpoint.build as build
build._write_shards = wait
main()
"""


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_told_to_end_leaves_nothing(tmp_path: Path, kind: signal.Signals) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint").folder
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", SLOW, "build", str(checkpoint), "-o", str(tmp_path / "place" / "engine")]

    def heed() -> None:
        """Also where the tests were started by nohup, which a build heeds."""
        signal.signal(kind, signal.SIG_DFL)

    building = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=heed)
    try:
        assert building.stdout is not None
        assert building.stdout.readline() == b"ready\n"
        assert len(list((tmp_path / "place").iterdir())) == 1
        building.send_signal(kind)
        assert building.wait(timeout=30) == 128 + kind
    finally:
        building.kill()
        building.communicate()
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("text", ["quant: 2024-99-99", "quant: " + "[" * 20_000, "tp_size: " + "1" * 5000, "- a"])
def test_yaml_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml (cannot be read as YAML|holds no settings)"):
        read_chosen(tmp_path / "c.yaml", None)


@pytest.mark.parametrize("text", ["quant: int8\ntp_size: 2\nquant: int4", "variants: {a: {quant: int8, quant: int4}}"])
def test_of_two_settings_of_one_name_none_is_taken_in_silence(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml cannot be read as YAML \('quant' is there twice"):
        read_chosen(tmp_path / "c.yaml", None)


def test_what_an_anchor_brings_may_be_said_again(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("variants:\n  a: &a {quant: int8, tp_size: 2}\n  b: {<<: *a, quant: int4}")
    assert read_chosen(tmp_path / "c.yaml", "b").settings == {"quant": "int4", "tp_size": 2}


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ConfigError, match=r"^--tp-size True cannot be used: input should be a valid integer\.$"):
        validated(BuildConfig, {"tp_size": True})
    with pytest.raises(ConfigError, match="--threads True cannot be used: "):
        validated(EngineConfig, {"threads": True})
    with pytest.raises(ConfigError, match="--threads 4097 cannot be used: input should be less than or equal to 4096"):
        validated(EngineConfig, {"threads": 4097})
