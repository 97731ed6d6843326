"""GPTQ and AWQ checkpoints, packed value by value as their formats say, independently of how llmserve reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which output lies in each nibble of a word, the lowest first (AutoAWQ's gemm)."""


@dataclass
class Int4:
    """W [outputs, inputs] = (q - zero) · scale; zero and scale [outputs, groups]."""

    q: Tensor
    zero: Tensor
    scale: Tensor
    group_size: int

    def weight(self) -> Tensor:
        group = torch.arange(self.q.shape[1]) // self.group_size
        return (self.q.float() - self.zero.float()[:, group]) * self.scale.float()[:, group]


def random_int4(
    outputs: int, inputs: int, group_size: int, seed: int, *, symmetric: bool, lowest_zero: int = 0
) -> Int4:
    generator = torch.Generator().manual_seed(seed)
    groups = -(-inputs // group_size)
    zero = torch.randint(lowest_zero, 16, (outputs, groups), generator=generator)
    scale = (0.02 * torch.rand(outputs, groups, generator=generator) + 0.01).half()
    q = torch.randint(0, 16, (outputs, inputs), generator=generator)
    return Int4(q, torch.full_like(zero, 8) if symmetric else zero, scale, group_size)


def _word(values: list[int]) -> int:
    word = sum(value << (4 * at) for at, value in enumerate(values))
    return word - (1 << 32) if word >= 1 << 31 else word


def _words(values: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """[a, 8·b] → int32 [a, b]: nibble k of a word is its value order[k]."""
    rows = [[_word([row[at + k] for k in order]) for at in range(0, len(row), 8)] for row in values.tolist()]
    return torch.tensor(rows, dtype=torch.int32)


def gptq(name: str, int4: Int4, *, v2: bool = False) -> dict[str, Tensor]:
    return {
        f"{name}.qweight": _words(int4.q).T.contiguous(),
        f"{name}.qzeros": _words((int4.zero - (0 if v2 else 1)).T),
        f"{name}.scales": int4.scale.T.contiguous(),
        f"{name}.g_idx": (torch.arange(int4.q.shape[1]) // int4.group_size).int(),
    }


def awq(name: str, int4: Int4) -> dict[str, Tensor]:
    return {
        f"{name}.qweight": _words(int4.q.T, AWQ_ORDER),
        f"{name}.qzeros": _words(int4.zero.T, AWQ_ORDER),
        f"{name}.scales": int4.scale.T.contiguous(),
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "desc_act": False, "sym": False, "damp_percent": 0.01},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "desc_act": False, "sym": False, "checkpoint_format": "gptq_v2"},
    "gptq_sym": {"quant_method": "gptq", "bits": 4, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm", "modules_to_not_convert": None},
}


def packed(name: str, method: str, int4: Int4) -> dict[str, Tensor]:
    return awq(name, int4) if method == "awq" else gptq(name, int4, v2=method == "gptq_v2")


def random_for(method: str, outputs: int, inputs: int, group_size: int, seed: int) -> Int4:
    lowest = 1 if method == "gptq" else 0  # what the first format cannot store
    return random_int4(outputs, inputs, group_size, seed, symmetric=method == "gptq_sym", lowest_zero=lowest)


def quantise_folder(
    source: Path, target: Path, plain: Path, method: str, group_size: int, *, head: bool = False
) -> dict[str, Int4]:
    """The checkpoint `source` with its layers' matrices replaced by random int4 ones → what they are.

    `target` gets them packed, `plain` the numbers that they stand for.
    """
    weights = load_file(source / "model.safetensors")
    kept: dict[str, Int4] = {}
    for seed, name in enumerate(sorted(weights)):
        if name.endswith("_proj.weight") or (head and name == "lm_head.weight"):
            outputs, inputs = weights[name].shape
            kept[name] = random_for(method, outputs, inputs, inputs if group_size == -1 else group_size, seed)
    others = {name: tensor for name, tensor in weights.items() if name not in kept}
    config = json.loads((source / "config.json").read_text())
    for folder in (target, plain):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    settings = {"quantization_config": {**CONFIGS[method], "group_size": group_size}}
    (target / "config.json").write_text(json.dumps({**config, **settings}))
    parts: dict[str, Tensor] = {}
    for name, int4 in kept.items():
        parts |= packed(name.removesuffix(".weight"), method, int4)
    save_file(others | parts, target / "model.safetensors")
    save_file(others | {name: int4.weight() for name, int4 in kept.items()}, plain / "model.safetensors")
    return kept
