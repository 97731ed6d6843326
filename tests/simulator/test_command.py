"""`scripts/simulate.py` as it is typed: files and tables out, or one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .cases import cost, machine

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate.py"


def simulate(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_four_policies_on_an_imaginary_machine(tmp_path: Path) -> None:
    few = ("--requests", 200, "--sweep-requests", 60, "--sweep-rates", 3, "--max-num-seqs", 16)
    done = simulate("--out", tmp_path, *few, "--arrivals", "bursts", "--tpot-bound", 500)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [outcome["policy"] for outcome in results["outcomes"]] == ["static", "continuous", "chunked", "cached"]
    assert {outcome["requests"] for outcome in results["outcomes"]} == {200}
    assert len({outcome["generated_tokens"] for outcome in results["outcomes"]}) == 1
    assert set(results["sweep"]) == {"static", "continuous", "chunked", "cached"}
    assert len(results["comparisons"]) == 4
    assert results["outcomes"][3]["prefix_share"] > 0.3
    text = (tmp_path / "results.md").read_text()
    assert text in done.stdout
    for said in ("| static batching |", "| + prefix cache |", "bursts, ", "log-normal, median 122, sigma 1"):
        assert said in text
    for name in ("sweep", "latencies", "timeline", "workload"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_machine_from_a_file_and_some_policies(tmp_path: Path) -> None:
    machine(cost(fixed=0.01, token=0.001), seqs=4).write(tmp_path / "machine.json")
    lengths = ("--prompts", "10,1,100", "--outputs", "10,1,100", "--prefixes", "0,0,0", "--rate", 2)
    flags = ("--machine", tmp_path / "machine.json", *lengths, "--requests", 100, "--sweep-requests", 0)
    done = simulate("--out", tmp_path, *flags, "--policies", "chunked,static")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [outcome["policy"] for outcome in results["outcomes"]] == ["static", "chunked"]
    assert results["machine"]["name"] == "by hand"
    assert "sweep" not in results


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--prompts", "100,1,50"), "simulate: lengths with median 100.0, sigma 1.0 and at most 50 do not exist"),
        (("--prompts", "100"), "'100' is not three numbers with commas between them"),
        (("--policies", "static,best"), "'best' is not among static, continuous, chunked, cached"),
        (("--machine", "absent.json"), "simulate: absent.json cannot be read: No such file or directory"),
        (("--calibrate", "absent"), "simulate: absent does not exist; make an engine"),
        (("--calibrate", "absent", "--engine-option", "max_seqs=4"), "--engine-option: max_seqs: Extra inputs"),
        (("--prompts", "100,1,200000"), "simulate: 7b-like on l4-like leaves 6.4 GB for the KV cache"),
        (("--bursts", "10,10,3", "--arrivals", "bursts", "--requests", 50), "lower the peak or lengthen the lulls."),
        (("--rate", "-1"), "-1 is not a positive number"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(flags: tuple[object, ...], said: str, tmp_path: Path) -> None:
    done = simulate("--out", tmp_path, *flags)
    assert done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_calibrated_and_compared_with_the_engine(demo_engine: Path, tmp_path: Path) -> None:
    small = ("max_num_seqs=4", "max_num_batched_tokens=64", "max_model_len=1000", "threads=1")
    options = [word for option in small for word in ("--engine-option", option)]
    done = simulate("--out", tmp_path, "--calibrate", demo_engine, *options)
    assert done.returncode == 0, done.stderr
    assert "a prompt of 256" in (tmp_path / "calibration.md").read_text()
    flags = ("--validate", demo_engine, "--machine", tmp_path / "machine.json", "--requests", 12, "--rounds", 1)
    done = simulate("--out", tmp_path, *flags, *options)
    assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "validation.json").read_text())["rounds"]
    assert len(rounds) == 3
    assert all(round["real"]["throughput_tokens_per_s"] > 0 for round in rounds)
    assert (tmp_path / "validation.png").read_bytes().startswith(b"\x89PNG")
