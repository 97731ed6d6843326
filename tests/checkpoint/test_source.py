"""Hugging Face checkpoint folders: what opens, what is refused and with which sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmserve.checkpoint.source import Checkpoint
from llmserve.checkpoint.tensor_file import TensorSpec
from llmserve.errors import CheckpointError

EMBED, NORM, DOWN = "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight"
TENSORS = {
    EMBED: torch.arange(24, dtype=torch.bfloat16).reshape(6, 4),
    NORM: torch.ones(4, dtype=torch.float32),
    DOWN: torch.arange(32, dtype=torch.float16).reshape(4, 8),
}
INDEX = "model.safetensors.index.json"


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "llama"})
    save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "llama"})
    save_file({EMBED: TENSORS[EMBED]}, folder / "model-00001-of-00002.safetensors")
    save_file({NORM: TENSORS[NORM], DOWN: TENSORS[DOWN]}, folder / "model-00002-of-00002.safetensors")
    shards = {name: f"model-0000{1 if name == EMBED else 2}-of-00002.safetensors" for name in TENSORS}
    write_json(folder / INDEX, {"metadata": {"total_size": 1}, "weight_map": shards})
    return folder


def refusal(folder: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- what opens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_tensors_are_found_wherever_they_are(kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint = Checkpoint.open(request.getfixturevalue(kind))
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.generation_config == {}
    assert checkpoint.names() == sorted(TENSORS)
    assert checkpoint.total_bytes == 24 * 2 + 4 * 4 + 32 * 2
    assert checkpoint.name == request.getfixturevalue(kind).name
    assert EMBED in checkpoint
    assert "lm_head.weight" not in checkpoint
    assert checkpoint.shape(EMBED) == (6, 4)
    assert checkpoint.spec(NORM) == TensorSpec((4,), torch.float32)
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.rows(name, 1, 3), tensor[1:3])
    assert torch.equal(checkpoint.rows(DOWN, 0, 4, (4, 8)), TENSORS[DOWN][:, 4:])


def test_tensors_the_index_does_not_name_are_not_there(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    del index["weight_map"][NORM]
    write_json(sharded / INDEX, index)
    assert NORM not in Checkpoint.open(sharded)


def test_no_file_stays_open_or_mapped(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    kept = checkpoint.rows(EMBED, 0, 6)
    open_files = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
    assert not any(file.startswith(str(sharded)) for file in open_files)
    assert str(sharded) not in Path("/proc/self/maps").read_text()
    assert torch.equal(kept, TENSORS[EMBED])


def test_generation_config_is_read(single: Path) -> None:
    write_json(single / "generation_config.json", {"temperature": 0.6})
    assert Checkpoint.open(single).generation_config == {"temperature": 0.6}


def test_tokenizer_files_are_those_that_exist(single: Path) -> None:
    for name in ("tokenizer.json", "qwen.tiktoken", "chat_template.jinja", "generation_config.json", "README.md"):
        (single / name).write_text("{}")
    (single / "tokenizer.model").mkdir()  # a folder is no tokenizer file
    found = [path.name for path in Checkpoint.open(single).tokenizer_files()]
    assert found == ["tokenizer.json", "chat_template.jinja", "qwen.tiktoken", "generation_config.json"]


def test_name_of_the_current_folder_and_of_a_hub_cache(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(single)
    assert Checkpoint.open(".").name == "tiny"
    snapshots = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "060db6499f32").symlink_to(single)
    assert Checkpoint.open(snapshots / "060db6499f32").name == "Qwen2.5-0.5B"


def test_fingerprint_follows_config_names_shapes_and_sizes_but_not_place(single: Path, tmp_path: Path) -> None:
    def fingerprint(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> str:
        save_file(tensors, single / "model.safetensors")
        write_json(single / "config.json", config)
        return Checkpoint.open(single).fingerprint()

    plain = fingerprint(TENSORS, {"a": 1})
    others = {
        fingerprint(TENSORS, {"a": 2}),
        fingerprint(TENSORS | {NORM: torch.ones(5)}, {"a": 1}),
        fingerprint(TENSORS | {NORM: torch.ones(4, dtype=torch.int32)}, {"a": 1}),
        fingerprint(TENSORS | {"more": torch.ones(1)}, {"a": 1}),
    }
    assert len(others) == 4
    assert plain not in others
    assert fingerprint(TENSORS, {"a": 1}) == plain
    single.rename(tmp_path / "moved")
    assert Checkpoint.open(tmp_path / "moved").fingerprint() == plain


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_missing_tensor_names_its_neighbours(single: Path) -> None:
    checkpoint = Checkpoint.open(single)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.rows("model.embed_token.weight", 0, 1)
    message = str(caught.value)
    assert f"{single} has no tensor model.embed_token.weight; the nearest names in it are {EMBED}" in message
    with pytest.raises(CheckpointError, match="has no tensor ✈; no name in it is near"):
        checkpoint.shape("✈")


def test_paths_that_are_no_checkpoint(tmp_path: Path, single: Path) -> None:
    assert "/nowhere/at/all does not exist; give the folder" in refusal("/nowhere/at/all")
    assert "is a file; give the folder" in refusal(single / "model.safetensors")
    assert "is not a Hugging Face checkpoint: it has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("config.json", "{", "config.json is not valid JSON (Expecting"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("generation_config.json", "nonsense", "generation_config.json is not valid JSON"),
        ("model.safetensors", "short", "model.safetensors is not a whole safetensors file"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, sentence: str, single: Path) -> None:
    (single / name).write_text(content)
    assert sentence in refusal(single)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert f"{sharded} lacks model-00002-of-00002.safetensors, which {INDEX} names" in refusal(sharded)


def test_a_shard_without_a_tensor_of_the_index_is_named(sharded: Path) -> None:
    save_file({NORM: TENSORS[NORM]}, sharded / "model-00002-of-00002.safetensors")
    assert f"model-00002-of-00002.safetensors lacks {DOWN}, which {INDEX} says it holds" in refusal(sharded)


@pytest.mark.parametrize(
    "weight_map", [None, [], {EMBED: 3}, {EMBED: "../elsewhere.safetensors"}, {EMBED: "/etc/passwd"}]
)
def test_an_index_that_leads_elsewhere_is_refused(weight_map: Any, sharded: Path) -> None:
    write_json(sharded / INDEX, {"weight_map": weight_map})
    assert f"{INDEX} has no valid weight_map" in refusal(sharded)


@pytest.mark.parametrize(
    "files, sentence",
    [
        ([], "has a config.json but no weights: neither model.safetensors nor"),
        (["pytorch_model.bin"], "pytorch_model.bin is not a whole PyTorch file: it does not begin as a zip file"),
        (
            ["pytorch_model-00001-of-00002.bin"],
            "has .bin files but neither pytorch_model.bin nor",
        ),
        (["model-00001-of-00002.safetensors"], "has .safetensors files but neither model.safetensors nor"),
        (["adapter_model.safetensors"], "is a LoRA adapter"),
        (["q4.gguf"], "has its weights as .gguf"),
    ],
)
def test_weights_we_do_not_read(files: list[str], sentence: str, single: Path) -> None:
    (single / "model.safetensors").unlink()
    for name in files:
        (single / name).touch()
    assert sentence in refusal(single)
