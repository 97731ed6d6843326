"""`llmserve build org/name`: what is downloaded, what is not, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmserve.checkpoint.engine_dir import EngineDir
from tests.checkpoint.fake_hub import SHA, FakeHub
from tests.checkpoint.torch_files import save_bin
from tests.tiny import tiny_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tiny_checkpoint(tmp_path / "model").folder
    for name in ("README.md", "consolidated.safetensors", "pytorch_model.bin", "model.gguf", "training_args.bin"):
        (folder / name).write_bytes(b"not needed")
    return folder


def llmserve_build(place: Path, url: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return llmserve(place, url, "build", *arguments, "-o", "engine", "--dtype", "float32", "--force", **env)


def llmserve(place: Path, url: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """In `place`, with a cache of the hub of its own there."""
    hub = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(place / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "llmserve", *arguments]
    return subprocess.run(
        command, cwd=place, env={**os.environ, "NO_PROXY": "127.0.0.1", **hub, **env}, capture_output=True, text=True
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llmserve: ")
    assert last.endswith(".")
    assert "Traceback" not in done.stderr
    return last


def test_just_the_files_that_are_needed_and_each_once(model: Path, tmp_path: Path) -> None:
    with FakeHub(model).serving() as hub:
        done = llmserve_build(tmp_path, hub.url, "org/tiny")
        assert done.returncode == 0, done.stderr
        assert sorted(name for name, _ in hub.downloaded) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]
        hub.downloaded.clear()
        assert llmserve_build(tmp_path, hub.url, "org/tiny", "--revision", "v1").returncode == 0
        assert hub.downloaded == []
    manifest = EngineDir.open(tmp_path / "engine").manifest
    assert manifest.model_name == "tiny"


def test_shards_are_those_of_the_index(model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, model / shard)
    index = {name: shard for shard, held in shards.items() for name in held}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with FakeHub(model).serving() as hub:
        done = llmserve_build(tmp_path, hub.url, "org/tiny")
        assert done.returncode == 0, done.stderr
        assert {name for name, _ in hub.downloaded} == {
            "config.json", "generation_config.json", "model.safetensors.index.json", *shards
        }  # fmt: skip


def test_a_model_of_pytorch_files(model: Path, tmp_path: Path) -> None:
    save_bin(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with FakeHub(model).serving() as hub:
        assert llmserve_build(tmp_path, hub.url, "org/tiny").returncode == 0
        assert ("pytorch_model.bin", None) in hub.downloaded


def test_a_download_that_broke_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """The library writes pieces of 10 MB, so that much has to be there."""
    model = tiny_checkpoint(tmp_path / "large", vocab_size=100_000).folder
    with FakeHub(model, breaks=("model.safetensors",)).serving() as hub:
        done = llmserve_build(tmp_path, hub.url, "org/tiny")
        if done.returncode:  # whether the library tries again by itself is its own business
            assert "run the same command again to go on" in sentence(done)
            assert llmserve_build(tmp_path, hub.url, "org/tiny").returncode == 0
        ranges = [wanted for name, wanted in hub.downloaded if name == "model.safetensors"]
        assert ranges[0] is None
        assert ranges[-1] is not None
        assert int(ranges[-1].removeprefix("bytes=").rstrip("-")) > 0


def test_without_a_network_the_cache_will_do(model: Path, tmp_path: Path) -> None:
    with FakeHub(model).serving() as hub:
        assert llmserve_build(tmp_path, hub.url, "org/tiny").returncode == 0
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        shutil.rmtree(tmp_path / "engine")
        done = llmserve_build(tmp_path, hub.url, "org/tiny", **env)
        assert done.returncode == 0, done.stderr
    said = sentence(llmserve_build(tmp_path, hub.url, "org/other"))
    assert "org/other is not here, not in the hub's cache, and the hub cannot be reached (" in said
    cached = next((tmp_path / "cache" / "hub").rglob(f"snapshots/{SHA}"))
    (cached / "model.safetensors").unlink()
    assert "has a config.json but no weights" in sentence(llmserve_build(tmp_path, hub.url, "org/tiny"))


def test_what_cannot_be_had_is_said(model: Path, tmp_path: Path) -> None:
    with FakeHub(model).serving() as hub:
        said = sentence(llmserve_build(tmp_path, hub.url, "org/nothing"))
        assert "org/nothing is neither a folder here nor a model of the hub;" in said
        said = sentence(llmserve_build(tmp_path, hub.url, "org/tiny", "--revision", "v9"))
        assert "org/tiny of the hub has no revision 'v9';" in said
        hub.gated = True
        assert "org/tiny is gated; ask for access" in sentence(llmserve_build(tmp_path, hub.url, "org/tiny"))
        hub.gated = False
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").unlink()
        assert "org/tiny of the hub holds no weights" in sentence(llmserve_build(tmp_path, hub.url, "org/tiny"))
        (model / "config.json").unlink()
        assert "it has no config.json" in sentence(llmserve_build(tmp_path, hub.url, "org/tiny"))


def test_a_folder_goes_before_the_hub(model: Path, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    model.rename(tmp_path / "org" / "tiny")
    nobody = "http://127.0.0.1:9"
    assert llmserve_build(tmp_path, nobody, "org/tiny").returncode == 0
    said = sentence(llmserve_build(tmp_path, nobody, "org/tiny", "--revision", "main"))
    assert "--revision is for models of the hub, and org/tiny is not one" in said


def test_an_adapter_from_the_command_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file({f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(64, 2)},
              tmp_path / "adapter" / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    done = llmserve_build(tmp_path, "http://127.0.0.1:9", "model", "--lora", "adapter")
    assert done.returncode == 0, done.stderr
    assert EngineDir.open(tmp_path / "engine").manifest.model_name == "model+adapter"
    q = load_file(tmp_path / "engine" / "rank0.safetensors")["layers.0.attention.qkv.weight"]
    plain = load_file(model / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(q[0, 0, :, 0], plain[:32, 0] + 4)


def test_a_plan_fetches_config_json_and_no_weights(model: Path, tmp_path: Path) -> None:
    with FakeHub(model).serving() as hub:
        done = llmserve(tmp_path, hub.url, "plan", "org/tiny", "--gpu", "L4", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == "tiny"
        assert {name for name, _ in hub.downloaded} == {"config.json"}
