"""Reading engine directories: what opens, and the sentence for every way to be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3

from llmserve.checkpoint.engine_dir import EngineDir, EngineDirWriter
from llmserve.checkpoint.tensor_file import TensorSpec
from llmserve.errors import EngineDirError

from .tiny_engine import build, manifest, names_in, tensors_of, write_shards


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return build(tmp_path / "engine")


def refusal(engine: Path) -> str:
    with pytest.raises(EngineDirError) as caught:
        EngineDir.open(engine).verify()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- a whole engine ------------------------------------------------------------------------------------------------


def test_what_was_written_is_what_opens(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    with EngineDirWriter(tmp_path / "deep" / "engine") as writer:
        write_shards(writer.path)
        writer.add_file(tokenizer)
        progress: list[int] = []
        written = writer.finish(manifest(), progress.append)
    engine = EngineDir.open(tmp_path / "deep" / "engine")
    assert names_in(engine.path) == ["engine.json", "rank0.safetensors", "rank1.safetensors", "tokenizer.json"]
    assert names_in(engine.path.parent) == ["engine"]
    assert engine.manifest == written
    assert written.files["tokenizer.json"].blake3 == blake3(b"{}").hexdigest()
    assert progress == sorted(progress)
    assert progress[-1] == sum(record.size for record in written.files.values())
    checked: list[int] = []
    engine.verify(progress=checked.append)
    assert checked == progress
    engine.verify(["rank1.safetensors"])
    for rank in (0, 1):
        loaded, expected = engine.shard(rank), tensors_of(rank)
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    specs = {"norm": TensorSpec((8,), torch.float32), "down": TensorSpec((4, 16), torch.int8)}
    assert engine.tensor_specs(0) == specs


def test_shards_are_mapped_aligned_and_private(engine: Path) -> None:
    file = engine / "rank0.safetensors"
    before = file.read_bytes()
    tensors = EngineDir.open(engine).shard(0)
    assert str(file) in Path("/proc/self/maps").read_text()
    assert all(tensor.data_ptr() % 32 == 0 for tensor in tensors.values())
    assert tensors["norm"].data_ptr() - tensors["down"].data_ptr() == 64  # side by side, as in the file: no copies
    tensors["norm"].fill_(7)
    assert file.read_bytes() == before


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys; import llmserve.checkpoint.engine_dir; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_rank_counts(engine: Path, tmp_path: Path) -> None:
    opened = EngineDir.open(engine)
    opened.check_ranks(2)
    with pytest.raises(EngineDirError) as caught:
        opened.check_ranks(1)
    assert str(caught.value) == (
        f"{engine} was built for tp_size=2 but 1 rank is running; start it with `mpirun -n 2 llmserve run {engine}`, "
        f"or with `llmserve run {engine}`, which starts the ranks itself."
    )
    with pytest.raises(
        EngineDirError, match=r"built for tp_size=1 but 4 ranks are running; start it with `mpirun -n 1"
    ):
        EngineDir.open(build(tmp_path / "one", tp_size=1)).check_ranks(4)


# --- damage --------------------------------------------------------------------------------------------------------


def test_no_engine(tmp_path: Path) -> None:
    assert "does not exist; make an engine with `llmserve build CHECKPOINT -o " in refusal(tmp_path / "nothing")
    assert "is not an engine (it has no engine.json)" in refusal(tmp_path)


def test_a_missing_file_is_named(engine: Path) -> None:
    (engine / "rank1.safetensors").unlink()
    assert f"{engine}/rank1.safetensors is missing; build the engine again or copy it again." == refusal(engine)


def test_a_truncated_file_is_named_with_both_sizes(engine: Path) -> None:
    size = (engine / "rank0.safetensors").stat().st_size
    os.truncate(engine / "rank0.safetensors", 100)
    assert f"rank0.safetensors has 100 bytes where engine.json says {size}; build" in refusal(engine)


def test_an_altered_file_is_found_by_verify_only(engine: Path) -> None:
    with open(engine / "rank1.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    opened = EngineDir.open(engine)
    opened.verify(["rank0.safetensors"])
    assert "rank1.safetensors was altered: its blake3 is " in refusal(engine)


def test_a_shard_with_a_damaged_header(engine: Path) -> None:
    with open(engine / "rank0.safetensors", "r+b") as file:
        file.write(b"\xff" * 8)
    opened = EngineDir.open(engine)
    with pytest.raises(EngineDirError, match=r"rank0.safetensors cannot be loaded \(.*\); build"):
        opened.shard(0)
    with pytest.raises(EngineDirError, match=r"rank0.safetensors is not a whole safetensors file"):
        opened.tensor_specs(0)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"tp_size": 3}, "does not list rank2.safetensors"),
        ({"format": 99}, "has engine format 99, newer than this llmserve reads"),
        ({"format": 1}, "has engine format 1, older than this llmserve reads (4); build the engine again."),
        ({"format": True}, "has no format number"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"tp_size": 10**9}, "is damaged: tp_size: "),
        ({"tp_size": 0}, "is damaged: tp_size: "),
        ({"model": {"num_layers": 10**9}}, "is damaged: model.num_layers: "),
        ({"model": {"sliding_windows": []}}, "is damaged: model: 0 sliding_windows for num_layers=1"),
        ({"model": {"rope": {"theta": 0}}}, "is damaged: model.rope.theta: "),
    ],
)
def test_a_manifest_that_does_not_fit(change: dict[str, Any], sentence: str, engine: Path) -> None:
    data = json.loads((engine / "engine.json").read_text())
    if "model" in change:
        change = {"model": data["model"] | change["model"]}
    (engine / "engine.json").write_text(json.dumps(data | change))
    assert sentence in refusal(engine)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "1" * 5000 + "}", "\xff"])
def test_a_manifest_that_is_no_json(text: str, engine: Path) -> None:
    (engine / "engine.json").write_bytes(text.encode("latin-1"))
    assert "engine.json is not valid JSON (" in refusal(engine)


def test_a_manifest_that_leads_elsewhere(engine: Path) -> None:
    data = json.loads((engine / "engine.json").read_text())
    data["files"]["../secret"] = {"size": 1, "blake3": "0"}
    (engine / "engine.json").write_text(json.dumps(data))
    assert "lists '../secret', not a file name" in refusal(engine)
