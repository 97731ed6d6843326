"""What a build leaves: a folder with a manifest that is true, shards that hold just the model, and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmserve import __version__
from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig, GenerationDefaults
from llmserve.errors import CheckpointError
from llmserve.models import read_config
from llmserve.models.generation import read_generation
from tests.tiny import build, edit_config, tiny_checkpoint
from tests.tokenizer.conftest import byte_level


def test_the_manifest_says_what_was_built(checkpoint: Path, tmp_path: Path) -> None:
    engine = EngineDir.open(build(checkpoint, tmp_path / "engine", quant="int4", tp_size=2))
    engine.verify()
    manifest = engine.manifest
    assert manifest.llmserve_version == __version__
    assert manifest.model_name == "checkpoint"
    assert manifest.model == read_config(json.loads((checkpoint / "config.json").read_text()))
    assert (manifest.device, manifest.quant, manifest.group_size) == ("cpu", "int4", 32)
    assert (manifest.tp_size, manifest.dtype) == (2, "float32")
    assert manifest.source_fingerprint == Checkpoint.open(checkpoint).fingerprint()
    assert set(manifest.files) == {"rank0.safetensors", "rank1.safetensors"}
    assert {file.name for file in engine.path.iterdir()} == {*manifest.files, "engine.json"}


def test_the_tokenizer_travels_along(checkpoint: Path, tmp_path: Path) -> None:
    byte_level().save(str(checkpoint / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (checkpoint / name).write_text("{}")
    engine = EngineDir.open(build(checkpoint, tmp_path / "engine"))
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"}
    assert set(engine.manifest.files) == {"rank0.safetensors", *names}
    assert engine.manifest.tokenizer_sha256 is not None


def test_without_a_tokenizer_there_is_none_to_compare(checkpoint: Path, tmp_path: Path) -> None:
    assert EngineDir.open(build(checkpoint, tmp_path / "engine")).manifest.tokenizer_sha256 is None


@pytest.mark.parametrize(
    "written, expected",
    [
        (None, GenerationDefaults(eos_token_ids=(0,))),  # config.json's
        ({"eos_token_id": [3, 5], "temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True},
         GenerationDefaults(eos_token_ids=(3, 5), temperature=0.6, top_p=0.95, top_k=20)),
        ({"top_k": -1}, GenerationDefaults(eos_token_ids=(0,), top_k=0)),  # off
        ({"temperature": 0.6}, GenerationDefaults(eos_token_ids=(0,), temperature=0.6)),
        ({"do_sample": False, "temperature": 0.6}, GenerationDefaults(eos_token_ids=(0,), temperature=0)),
        ({"eos_token_id": None}, GenerationDefaults()),
    ],
)  # fmt: skip
def test_generation_defaults(
    checkpoint: Path, tmp_path: Path, written: dict[str, Any] | None, expected: GenerationDefaults
) -> None:
    if written is not None:
        (checkpoint / "generation_config.json").write_text(json.dumps(written))
    assert EngineDir.open(build(checkpoint, tmp_path / "engine")).manifest.generation == expected


def test_what_the_author_wants_and_nobody_does_is_said() -> None:
    wishes = {"no_repeat_ngram_size": 3, "num_beams": None, "typical_p": 1.0, "max_new_tokens": 7}
    assert read_generation({}, wishes, 96).not_applied == ("no_repeat_ngram_size=3",)


@pytest.mark.parametrize("value", [0.5, "40", True])
def test_a_default_that_is_no_number_of_its_kind_is_an_error(value: Any) -> None:
    with pytest.raises(CheckpointError, match="top_k"):
        read_generation({}, {"top_k": value}, 96)


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_dtype_auto_is_the_checkpoints(checkpoint: Path, tmp_path: Path, key: str, name: str) -> None:
    """transformers 4 writes `torch_dtype`, transformers 5 `dtype`."""
    edit_config(checkpoint, without=("torch_dtype", "dtype"), **{key: name})
    engine = EngineDir.open(build(checkpoint, tmp_path / "engine", dtype="auto"))
    assert engine.manifest.dtype == name
    assert {str(spec.dtype) for spec in engine.tensor_specs(0).values()} == {f"torch.{name}"}


@pytest.mark.parametrize(
    "norms, others, expected",
    [
        (torch.float16, torch.float16, "float16"),
        (torch.bfloat16, torch.bfloat16, "bfloat16"),
        (torch.float32, torch.bfloat16, "float32"),
        (torch.float16, torch.bfloat16, "float32"),  # neither holds the other
        (torch.float64, torch.float64, "float32"),
    ],
)
@pytest.mark.parametrize("null", [True, False])
def test_without_a_dtype_in_the_config_it_is_what_holds_every_tensor(
    checkpoint: Path, tmp_path: Path, norms: torch.dtype, others: torch.dtype, expected: str, null: bool
) -> None:
    edit_config(checkpoint, without=("torch_dtype", "dtype"), **({"torch_dtype": None} if null else {}))
    weights = load_file(checkpoint / "model.safetensors")
    typed = {name: tensor.to(norms if "norm" in name else others) for name, tensor in weights.items()}
    save_file(typed, checkpoint / "model.safetensors")
    engine = build(checkpoint, tmp_path / "engine", dtype="auto")
    assert EngineDir.open(engine).manifest.dtype == expected


@pytest.mark.parametrize("sharded", [True, False])
def test_pytorch_files_build_the_engine_that_safetensors_build(checkpoint: Path, tmp_path: Path, sharded: bool) -> None:
    expected = build(checkpoint, tmp_path / "expected", quant="int4", tp_size=2)
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    if sharded:
        for at, held in enumerate((names[:7], names[7:])):
            torch.save({name: weights[name] for name in held}, checkpoint / f"pytorch_model-{at}.bin")
        index = {name: f"pytorch_model-{int(at >= 7)}.bin" for at, name in enumerate(names)}
        (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(weights, checkpoint / "pytorch_model.bin")
    engine = build(checkpoint, tmp_path / "engine", quant="int4", tp_size=2)
    for rank in ("rank0.safetensors", "rank1.safetensors"):
        assert (engine / rank).read_bytes() == (expected / rank).read_bytes()


def test_a_tied_head_that_shares_its_storage(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", tie=True).folder
    plain = build(checkpoint, tmp_path / "plain")
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, checkpoint / "pytorch_model.bin")
    engine = build(checkpoint, tmp_path / "engine")
    assert (engine / "rank0.safetensors").read_bytes() == (plain / "rank0.safetensors").read_bytes()


def test_a_shard_holds_the_model_and_nothing_twice(checkpoint: Path, tmp_path: Path) -> None:
    layer = {"attention_norm", "attention.qkv", "attention.o", "mlp_norm", "mlp.gate_up", "mlp.down"}
    names = {"embedding", "norm", "head", *(f"layers.{i}.{part}" for i in range(2) for part in layer)}
    shard = load_file(build(checkpoint, tmp_path / "engine") / "rank0.safetensors")
    assert set(shard) == {f"{name}.weight" for name in names}
    original = load_file(checkpoint / "model.safetensors")
    assert sum(t.numel() for t in shard.values()) == sum(t.numel() for t in original.values())


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", tie=True).folder
    assert "head.weight" not in load_file(build(checkpoint, tmp_path / "engine") / "rank0.safetensors")


def test_a_copy_of_a_tied_head_in_the_checkpoint_changes_nothing(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", tie=True).folder
    plain = build(checkpoint, tmp_path / "plain")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()},
              checkpoint / "model.safetensors")  # fmt: skip
    copied = build(checkpoint, tmp_path / "copied")
    assert (copied / "rank0.safetensors").read_bytes() == (plain / "rank0.safetensors").read_bytes()


def test_computed_tensors_of_old_checkpoints_are_no_obstacle(checkpoint: Path, tmp_path: Path) -> None:
    plain = build(checkpoint, tmp_path / "plain")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, checkpoint / "model.safetensors")
    old = build(checkpoint, tmp_path / "old")
    assert (old / "rank0.safetensors").read_bytes() == (plain / "rank0.safetensors").read_bytes()


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    one, two = (build(checkpoint, tmp_path / name, quant=quant) for name in ("one", "two"))
    assert (one / "engine.json").read_bytes() == (two / "engine.json").read_bytes()
    assert (one / "rank0.safetensors").read_bytes() == (two / "rank0.safetensors").read_bytes()


def test_bands_of_rows_give_what_whole_tensors_give(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build streams its weights; where the bands end must not show."""
    whole = build(checkpoint, tmp_path / "whole", quant="int4", tp_size=2)
    monkeypatch.setattr("llmserve.layers.parameter.BAND_BYTES", 4 * 64 * 5)  # five rows of 64 columns
    banded = build(checkpoint, tmp_path / "banded", quant="int4", tp_size=2)
    for rank in ("rank0.safetensors", "rank1.safetensors"):
        assert (banded / rank).read_bytes() == (whole / rank).read_bytes()


def test_progress_reaches_its_end_in_every_phase(checkpoint: Path, tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    config = BuildConfig(quant="int8", tp_size=2)
    report = build_engine(
        Checkpoint.open(checkpoint), tmp_path / "engine", config,
        progress=lambda phase, done, total: seen.setdefault(phase, []).append((done, total)),
    )  # fmt: skip
    assert list(seen) == ["weights", "checksums"]
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1] > 0
        assert len({total for _, total in steps}) == 1
    assert report.engine_bytes == sum(report.manifest.files[f"rank{r}.safetensors"].size for r in (0, 1))


def test_the_report_counts_weights_once_and_engine_bits_truly(checkpoint: Path, tmp_path: Path) -> None:
    report = build_engine(Checkpoint.open(checkpoint), tmp_path / "engine", BuildConfig(tp_size=2, dtype="float32"))
    weights = load_file(checkpoint / "model.safetensors")
    assert report.num_weights == sum(t.numel() for t in weights.values())
    assert report.source_bytes == 4 * report.num_weights
    assert 32 <= report.bits_per_weight < 36  # norms are on both ranks; and there are two headers
