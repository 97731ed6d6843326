"""Checkpoints whose names lack the model's prefix, as a model saved without its LM head has them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.forward import Forward
from tests.tiny import build, tiny_checkpoint

PROMPT, STEPS = list(range(20, 45)), [5, 3, 8]


def test_names_without_their_first_part_are_understood(tmp_path: Path) -> None:
    """GPT-2's own checkpoint on the hub looks so, with the buffers of its causal mask beside the weights."""
    for family, tie in (("gpt2", True), ("llama", False)):
        tiny = tiny_checkpoint(tmp_path / family, family, tie=tie)
        whole = build(tiny.folder, tmp_path / f"{family}-whole")
        file = tiny.folder / "model.safetensors"
        tensors = load_file(file)
        bare = {name.removeprefix("transformer.").removeprefix("model."): t for name, t in tensors.items()}
        assert len(bare) == len(tensors)
        if family == "gpt2":
            bare["h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril().bool()
        save_file(bare, file)
        stripped = build(tiny.folder, tmp_path / f"{family}-bare")
        expected = Forward(whole).prefill_and_steps(PROMPT, STEPS)
        assert torch.equal(Forward(stripped).prefill_and_steps(PROMPT, STEPS), expected)
