"""A plan's bytes are those of the engine that is then built, loaded and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.cli import DEMO
from llmserve.comm.solo import SoloComm
from llmserve.config import EngineConfig
from llmserve.errors import CheckpointError, ConfigError
from llmserve.layers.layout import make_layout
from llmserve.models import make_model
from llmserve.ops.reference import Matrix, ReferenceOps
from llmserve.plan.needs import Needs
from llmserve.plan.subject import open_subject
from llmserve.runtime.load import load_runner, take_shard
from tests.checkpoint.int4_files import quantise_folder
from tests.kernels import SETS
from tests.plan.ask import ask, needs, real, real_configs
from tests.shared import shared
from tests.tiny import build, tiny_checkpoint

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 72}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {}),
    "int8, 2 ranks": ({}, {"quant": "int8", "tp_size": 2}),
    "int4, bfloat16": ({"tie": True}, {"quant": "int4", "dtype": "bfloat16"}),
    "tied, unquantised, 2 ranks": ({"tie": True, "vocab_size": 97}, {"tp_size": 2}),
    "ranks that share unequally": ({"intermediate_size": 90}, {"quant": "int8", "tp_size": 2}),
    "more ranks than KV heads": ({"family": "qwen2"}, {"quant": "int8", "tp_size": 4}),
    "experts, int4, 2 ranks": (
        {"family": "qwen3_moe", **EXPERTS, "head_dim": 32, "hidden_size": 128},
        {"quant": "int4", "tp_size": 2},
    ),
    "learned positions": ({"family": "gpt2", "tie": True}, {"quant": "int8"}),
}


def check(engine: Path, planned: Needs) -> None:
    """To the byte: the file, its tensors, and what they become in memory on the reference operations."""
    opened = EngineDir.open(engine)
    m = opened.manifest
    for rank, share in enumerate(planned.shares):
        assert (
            share.file == m.files[f"rank{rank}.safetensors"].size == (engine / f"rank{rank}.safetensors").stat().st_size
        )
        assert share.stored == sum(spec.nbytes for spec in opened.tensor_specs(rank).values())
        layout = make_layout(m.quant, m.head_quant, m.group_size, m.dtype, rank, m.tp_size, m.zero_points)
        model = make_model(m.model, layout)
        take_shard(opened, model, rank, ReferenceOps(torch.device("cpu")))
        assert share.resident == sum(in_memory(parameter.handle) for parameter in model.parameters())


def in_memory(handle: Any) -> int:
    if isinstance(handle, Matrix):
        return sum(part.nbytes for part in (handle.q, handle.scale, handle.zero) if isinstance(part, Tensor))
    return handle.nbytes


@pytest.mark.parametrize("model, config", CASES.values(), ids=CASES.keys())
def test_every_byte_of_a_built_engine(tmp_path: Path, model: dict[str, Any], config: dict[str, Any]) -> None:
    """Planned from the checkpoint, from its config.json alone, and from the engine itself."""
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", **model).folder
    engine = build(checkpoint, tmp_path / "engine", **{"device": "cuda", **config})
    wanted = {"dtype": "float32", "device": "cuda", **config}
    planned = needs(open_subject(str(checkpoint)), **wanted)
    check(engine, planned)
    assert needs(open_subject(str(checkpoint / "config.json")), **wanted) == planned
    (tmp_path / "bare").mkdir()
    shutil.copy(checkpoint / "config.json", tmp_path / "bare")
    assert needs(open_subject(str(tmp_path / "bare")), **wanted) == planned
    assert needs(open_subject(str(engine))) == planned


@pytest.mark.parametrize("quant, ranks", [("int8", 2), ("int4", 1), ("none", 1)])
def test_the_demo(tmp_path: Path, quant: str, ranks: int) -> None:
    engine = build(DEMO, tmp_path / "engine", quant=quant, tp_size=ranks, dtype="float32", device="cuda")
    check(engine, needs(open_subject(str(DEMO)), quant=quant, tp_size=ranks, dtype="float32", device="cuda"))


def test_a_checkpoint_of_int4_keeps_its_zero_points(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", hidden_size=128, intermediate_size=256, head_dim=32).folder
    quantise_folder(source, tmp_path / "packed", tmp_path / "plain", "awq", 64)
    engine = build(tmp_path / "packed", tmp_path / "engine", tp_size=2, device="cuda")
    wanted = {"tp_size": 2, "dtype": "float32", "device": "cuda"}
    planned = needs(open_subject(str(tmp_path / "packed")), **wanted)
    check(engine, planned)
    assert needs(open_subject(str(tmp_path / "packed" / "config.json")), **wanted) == planned


KV = [
    pytest.param("auto", marks=pytest.mark.skipif(not SETS, reason="the CPU kernels are not installed")),
    pytest.param("int8", marks=pytest.mark.skipif(not SETS, reason="the CPU kernels are not installed")),
    "reference",
]


@pytest.mark.parametrize("kind", KV)
def test_the_kv_cache_is_that_of_a_loaded_engine(tmp_path: Path, kind: str) -> None:
    """Heads of 24 dimensions, which the kernels pad."""
    checkpoint = tiny_checkpoint(tmp_path / "tiny", head_dim=24).folder
    reference = kind == "reference"
    run: dict[str, Any] = {"kernels": "reference"} if reference else {"kv_cache_dtype": kind}
    engine = build(checkpoint, tmp_path / "engine")
    loaded = load_runner(EngineDir.open(engine), EngineConfig(**run), SoloComm(), torch.device("cpu"), [0])
    subject = open_subject(str(checkpoint))
    planned = needs(
        subject, dtype="float32", device="cuda" if reference else "cpu",
        engine={} if reference else {"kv_cache_dtype": kind},
    )  # fmt: skip
    assert planned.kv_block == loaded.kv.block_bytes
    assert planned.kv_dtype == loaded.kv.kind


@pytest.mark.skipif(not SETS, reason="the CPU kernels are not installed")
def test_the_kernels_use_what_they_map(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny").folder
    (share,) = needs(open_subject(str(checkpoint)), quant="int4", device="cpu").shares
    assert (share.resident, share.scratch) == (share.stored, 0)


def test_chatglm2_6b_in_int8_on_two_ranks() -> None:
    """By hand. 28 layers of hidden 4096, inner 13696, 32 heads of 128 and 2 KV heads; a vocabulary of 65024."""
    embedding = 65024 // 2 * 4096 * 2  # half of the rows, fp16
    norm = 4096 * 2
    rows = 16 * 128 + 128 + 128  # half of the heads, a key and a value head
    qkv = rows * 4096 + rows * 4 + rows * 2  # int8, a fp32 scale a row, a fp16 bias
    o = 4096 * 2048 + 4096 * 4
    gate_up = 2 * 6848 * 4096 + 2 * 6848 * 4
    down = 4096 * 6848 + 4096 * 4
    layer = norm + qkv + o + norm + gate_up + down
    head = 65024 // 2 * 4096 + 65024 // 2 * 4
    total = embedding + 28 * layer + norm + head
    assert total == 3_258_215_424
    planned = needs(real("chatglm2-6b"), quant="int8", tp_size=2)
    assert [share.stored for share in planned.shares] == [total, total]
    assert planned.kv_token == 2 * 28 * 1 * 128 * 2  # keys and values, a head of 128, bf16
    # In a step everything is read but the embedding, of which each token reads a row.
    assert [share.read_always for share in planned.shares] == [total - embedding] * 2


def test_qwen_7b_in_int4_on_one_rank() -> None:
    """By hand. 32 layers of hidden 4096, inner 11008, 32 heads of 128, each with keys and values; groups of 128."""
    embedding = 151936 * 4096 * 2  # bf16
    norm = 4096 * 2

    def matrix(rows: int, columns: int) -> int:
        return rows * columns // 2 + rows * (columns // 128) * 2  # two weights a byte, a fp16 scale a group

    layer = 2 * norm + matrix(3 * 4096, 4096) + 3 * 4096 * 2 + matrix(4096, 4096)
    layer += matrix(2 * 11008, 4096) + matrix(4096, 11008)
    head = 151936 * 4096 + 151936 * 4  # int8, as the head of an int4 engine is
    total = embedding + 32 * layer + norm + head
    assert total == 5_208_106_496
    plan = ask(real("qwen-7b-chat"), quant="int4", dtype="bfloat16")
    (share,) = plan.needs.shares
    assert (share.stored, plan.group_size) == (total, 128)
    assert plan.needs.kv_token == 2 * 32 * 4096 * 2


@pytest.mark.parametrize("name", real_configs())
def test_the_configs_of_real_models_have_as_many_weights_as_the_hub_says(name: str) -> None:
    assert ask(real(name), dtype="bfloat16").num_weights == real_configs()[name]["num_weights"]


@pytest.mark.parametrize(
    "name, file", [("chatglm2-6b", "chatglm2"), ("chatglm3-6b", "chatglm3"), ("qwen-7b-chat", "qwen1")]
)
def test_they_are_those_of_the_checkpoints(name: str, file: str) -> None:
    theirs = json.loads(shared(f"tokenizers/{file}/config.json").read_text("utf-8"))
    assert real_configs()[name]["config"].items() <= theirs.items()
    assert real_configs()[name]["config"].keys() | {"auto_map", "_name_or_path"} >= theirs.keys()


def test_a_dtype_that_nothing_tells_has_to_be_chosen() -> None:
    with pytest.raises(CheckpointError, match="choose one with --dtype"):
        ask(real("qwen-7b-chat"))


def test_int8_keys_and_values_are_for_the_kernels() -> None:
    with pytest.raises(ConfigError, match="--kv-cache-dtype int8 is for the CPU kernels"):
        ask(real("qwen2.5-0.5b"), device="cuda", engine={"kv_cache_dtype": "int8"})


def test_a_length_beyond_the_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="--max-model-len 40000 exceeds the 32768 positions"):
        ask(real("qwen2.5-0.5b"), engine={"max_model_len": 40000})
