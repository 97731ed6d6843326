"""`llmserve build --lora`: the engine of a merged adapter is the engine of the matrices that it makes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmserve.checkpoint.lora import merge
from llmserve.checkpoint.source import Checkpoint
from llmserve.errors import CheckpointError
from tests.build.test_int4_checkpoints import int4_checkpoint
from tests.tiny import tiny_checkpoint

Q0, DOWN1, HEAD = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "lora_dropout": 0.05, "bias": "none",
    "target_modules": ["q_proj", "down_proj", "lm_head"], "fan_in_fan_out": False, "inference_mode": True,
    "modules_to_save": None, "init_lora_weights": True, "use_dora": False, "use_rslora": False, "rank_pattern": {},
    "alpha_pattern": {}, "layers_to_transform": None, "loftq_config": {}, "megatron_core": "megatron.core",
}  # fmt: skip


def adapter(
    folder: Path, checkpoint: Path, *, bin: bool = False, ranks: dict[str, int] | None = None, **config: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Writes an adapter to three of the checkpoint's matrices → its A and B by module."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    weights = load_file(checkpoint / "model.safetensors")
    pairs = {}
    for module in (Q0, DOWN1, HEAD):
        outputs, inputs = weights[f"{module}.weight"].shape
        r = (ranks or {}).get(module, 4)
        pairs[module] = torch.randn(r, inputs, generator=generator), torch.randn(outputs, r, generator=generator)
    tensors = {f"base_model.model.{m}.lora_A.weight": a for m, (a, _) in pairs.items()}
    tensors |= {f"base_model.model.{m}.lora_B.weight": b for m, (_, b) in pairs.items()}
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    if bin:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    return pairs


@pytest.mark.parametrize(
    "config, ranks, scales",
    [
        ({}, {}, {}),
        ({"use_rslora": True}, {}, dict.fromkeys((Q0, DOWN1, HEAD), 6 / math.sqrt(4))),
        ({"rank_pattern": {"q_proj": 2}}, {Q0: 2}, {Q0: 6 / 2}),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 1.5}}, {}, {DOWN1: 1.5 / 4}),
        ({"alpha_pattern": {"^lm_head": 12}, "rank_pattern": {f"^{DOWN1}$": 8}}, {DOWN1: 8}, {HEAD: 3, DOWN1: 6 / 8}),
        ({"rank_pattern": {"proj": 2}}, {}, {}),  # fits no whole part of a name
    ],
)
@pytest.mark.parametrize("bin", [False, True])
def test_the_sum_is_what_the_config_says(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], ranks: dict[str, int], scales: dict[str, float], bin: bool
) -> None:
    pairs = adapter(tmp_path / "adapter", checkpoint, bin=bin, ranks=ranks, **config)
    merged = merge(Checkpoint.open(checkpoint), tmp_path / "adapter")
    weights = load_file(checkpoint / "model.safetensors")
    assert merged.names() == sorted(weights)
    for name, weight in weights.items():
        got = merged.rows(name, 0, len(weight))
        if (module := name.removesuffix(".weight")) in pairs:
            a, b = pairs[module]
            expected = weight.double() + scales.get(module, 6 / 4) * (b.double() @ a.double())
            torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-5)
            part = merged.rows(name, 3, 17, (5, 40))
            torch.testing.assert_close(part.double(), expected[3:17, 5:40], rtol=1e-6, atol=1e-5)
            assert got.dtype == torch.float32
        else:
            assert torch.equal(got, weight)


def test_an_engine_is_that_of_the_merged_matrices(checkpoint: Path, tmp_path: Path) -> None:
    from llmserve.checkpoint.build import build_engine
    from llmserve.config import BuildConfig

    adapter(tmp_path / "adapter", checkpoint)
    base = Checkpoint.open(checkpoint)
    merged = merge(base, tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    save_file({n: merged.rows(n, 0, merged.shape(n)[0]) for n in merged.names()},
              tmp_path / "merged" / "model.safetensors")  # fmt: skip
    config = BuildConfig(quant="int8", tp_size=2, dtype="float32")
    one = build_engine(merged, tmp_path / "one", config)
    build_engine(Checkpoint.open(tmp_path / "merged"), tmp_path / "two", config)
    for rank in ("rank0.safetensors", "rank1.safetensors"):
        ours, theirs = load_file(tmp_path / "one" / rank), load_file(tmp_path / "two" / rank)
        for name, stored in theirs.items():  # a product of bands may differ from the whole one in its last bits
            if stored.dtype == torch.uint8:
                assert (ours[name].int() - stored.int()).abs().max() <= 1
            else:
                torch.testing.assert_close(ours[name], stored, rtol=1e-6, atol=1e-6)
    assert one.manifest.model_name == "checkpoint+adapter"
    assert one.manifest.source_fingerprint not in ("", base.fingerprint())


def test_the_fingerprint_follows_the_adapter(checkpoint: Path, tmp_path: Path) -> None:
    def fingerprint(**config: Any) -> str:
        adapter(tmp_path / "adapter", checkpoint, **config)
        return merge(Checkpoint.open(checkpoint), tmp_path / "adapter").fingerprint()

    assert fingerprint() == fingerprint()
    assert fingerprint() != fingerprint(lora_alpha=7)


def test_matrices_that_a_file_holds_transposed(tmp_path: Path) -> None:
    """GPT-2's; and its checkpoints leave the outermost module's name away."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    weight = torch.randn(6, 9)
    save_file({"h.0.attn.c_attn.weight": weight}, tmp_path / "base" / "model.safetensors")
    a, b = torch.randn(4, 6), torch.randn(9, 4)
    at = "base_model.model.transformer.h.0.attn.c_attn"
    (tmp_path / "adapter").mkdir()
    save_file({f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {**CONFIG, "fan_in_fan_out": True, "target_modules": ["c_attn"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    merged = merge(Checkpoint.open(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(
        merged.rows("h.0.attn.c_attn.weight", 1, 5, (2, 8)), (weight + 1.5 * (b @ a).T)[1:5, 2:8]
    )


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(checkpoint: Path, folder: Path) -> str:
    def read() -> None:
        merged = merge(Checkpoint.open(checkpoint), folder)
        for name in merged.names():
            merged.rows(name, 0, merged.shape(name)[0])

    with pytest.raises(CheckpointError) as caught:
        read()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"peft_type": "IA3"}, "says peft_type='IA3', which llmserve does not implement; it merges LORA"),
        ({"use_dora": True}, "says use_dora=True, which"),
        ({"modules_to_save": ["embed_tokens"]}, "says modules_to_save=['embed_tokens'], which"),
        ({"bias": "lora_only"}, "says bias='lora_only', which"),
        ({"init_lora_weights": "pissa_niter_4"}, "says init_lora_weights='pissa_niter_4', which"),
        ({"layer_replication": [[0, 2]]}, "says layer_replication=[[0, 2]], of which llmserve does not know whether"),
        ({"lora_bias": True}, "says lora_bias=True, of which"),
        ({"trainable_token_indices": [1]}, "says trainable_token_indices=[1], of which"),
        ({"target_modules": ["q_proj", "k_proj"]}, "names 'k_proj' in target_modules, but the adapter holds no"),
        ({"rank_pattern": {"(a+)+$": 2}}, "has the regular expression '(a+)+$' in rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "says rank_pattern=['q_proj'], which is not an object"),
        ({"r": 0}, "the rank 0; it must be at least 1"),
        ({"r": True}, "the rank True; it must be at least 1"),
        ({"r": 8}, "but its rank 8 and the checkpoint's"),
        ({"lora_alpha": "16"}, "lora_alpha='16', which is not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan, which is not a number"),
        ({"fan_in_fan_out": 1}, "something else than true or false in fan_in_fan_out"),
    ],
)  # fmt: skip
def test_a_config_that_asks_for_something_else(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    adapter(tmp_path / "adapter", checkpoint, **config)
    assert sentence in refusal(checkpoint, tmp_path / "adapter")


def rename(old: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


A = f"base_model.model.{Q0}.lora_A.weight"


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: t.pop(A), f"holds base_model.model.{Q0}.lora_B.weight (1 such in all), which llmserve does not"),
        (lambda t: t.pop(A.replace("_A", "_B")), f"the adapter lacks base_model.model.{Q0}.lora_B.weight"),
        (lambda t: t.clear(), "the adapter holds no tensors"),
        (lambda t: t.update({f"{HEAD}.weight": torch.ones(1)}), "holds lm_head.weight"),
        (lambda t: t.update({A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(1)}), "magnitude_vector"),
        (lambda t: t.update({A: t[A][:, 1:].contiguous()}), "have shapes [4, 63] and [64, 4]"),
        (lambda t: t.update({A: t[A] * torch.nan}), f"the adapter's {A} holds NaN or infinity"),
        (lambda t: t.update({A: t[A].int()}), "are whole numbers, which cannot be merged"),
        (lambda t: [rename(n, n.replace("layers.0", "layers.7"))(t) for n in list(t) if Q0 in n],
         "the adapter changes model.layers.7.self_attn.q_proj, but the checkpoint has no tensor"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_belong(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    adapter(tmp_path / "adapter", checkpoint)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert sentence in refusal(checkpoint, tmp_path / "adapter")


def test_folders_that_are_no_adapter(checkpoint: Path, tmp_path: Path) -> None:
    assert "is not a folder; give --lora" in refusal(checkpoint, tmp_path / "nowhere")
    assert "is not a PEFT adapter: it has no adapter_config.json" in refusal(checkpoint, tmp_path)
    adapter(tmp_path / "adapter", checkpoint)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert "but no weights: neither adapter_model.safetensors nor adapter_model.bin" in refusal(
        checkpoint, tmp_path / "adapter"
    )


def test_a_base_model_that_is_int4(tmp_path: Path) -> None:
    packed, plain = int4_checkpoint(tmp_path, "awq", 32)
    adapter(tmp_path / "adapter", plain)
    assert "is int4 (AWQ), into which no adapter can be merged" in refusal(packed, tmp_path / "adapter")


def test_a_tied_head_cannot_change_alone(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", tie=True).folder
    untied = tiny_checkpoint(tmp_path / "untied").folder
    adapter(tmp_path / "adapter", untied)
    assert "the adapter changes lm_head, but the checkpoint has no tensor" in refusal(checkpoint, tmp_path / "adapter")
