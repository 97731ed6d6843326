"""The smallest engine there is, for tests of the folder around it."""

from __future__ import annotations

from pathlib import Path

import torch

from llmserve.checkpoint.engine_dir import EngineDirWriter, shard_name
from llmserve.checkpoint.tensor_file import TensorFileWriter, TensorSpec
from llmserve.config import GenerationDefaults, Manifest, ModelConfig, Rope


def manifest(tp_size: int = 2) -> Manifest:
    model = ModelConfig(
        family="llama",
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=4,
        max_position=64,
        norm_eps=1e-5,
        rope=Rope(theta=10000.0, dim=4),
        tie_embeddings=True,
        sliding_windows=(None,),
    )
    return Manifest(
        llmserve_version="0.1.0",
        device="cpu",
        model_name="tiny",
        model=model,
        quant="none",
        head_quant="none",
        group_size=None,
        tp_size=tp_size,
        dtype="float32",
        generation=GenerationDefaults(),
        tokenizer_sha256=None,
        source_fingerprint="0" * 64,
        files={},
    )


def tensors_of(rank: int) -> dict[str, torch.Tensor]:
    return {"norm": torch.full((8,), float(rank)), "down": torch.arange(64, dtype=torch.int8).reshape(4, 16) + rank}


def write_shards(folder: Path, tp_size: int = 2) -> None:
    for rank in range(tp_size):
        tensors = tensors_of(rank)
        specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        with TensorFileWriter(folder / shard_name(rank), specs, {}) as shard:
            for name, tensor in tensors.items():
                shard.write(name, 0, tensor)


def build(target: Path, force: bool = False, tp_size: int = 2) -> Path:
    with EngineDirWriter(target, force) as writer:
        write_shards(writer.path, tp_size)
        writer.finish(manifest(tp_size))
    return target


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
