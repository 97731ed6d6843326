"""Random checkpoints of a few thousand weights, made and saved by transformers: what users bring, but small."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig

CLASSES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": 0,
}


@dataclass(frozen=True)
class Tiny:
    """A checkpoint folder and the transformers model that was saved to it."""

    folder: Path
    model: Any

    @torch.inference_mode()
    def logits(self, prompt: list[int], steps: list[int]) -> Tensor:
        """[prompt + steps, vocabulary]: the prompt in one forward, then each step over the KV cache."""
        done = self.model(torch.tensor([prompt]), use_cache=True)
        rows = [done.logits[0]]
        for token in steps:
            done = self.model(torch.tensor([[token]]), past_key_values=done.past_key_values, use_cache=True)
            rows.append(done.logits[0])
        return torch.cat(rows)


def tiny_checkpoint(folder: Path, family: str = "llama", *, seed: int = 0, tie: bool = False, **config: Any) -> Tiny:
    """`config` goes to transformers, over SIZES. `folder` is made."""
    import transformers

    architecture = getattr(transformers, CLASSES[family])
    settings = {**SIZES, **config, "tie_word_embeddings": tie, "attn_implementation": "eager"}
    model = architecture(architecture.config_class(**settings)).eval()
    _randomise(model, seed)
    model.save_pretrained(folder)
    return Tiny(folder, model)


@torch.no_grad()
def _randomise(model: Any, seed: int) -> None:
    """Weights large enough that attention is not uniform and every bias and norm shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("norm.weight"):
            weight.copy_(1 + noise / 4)
        elif weight.ndim == 1:
            weight.copy_(noise / 2)
        else:
            weight.copy_(noise * 1.5 / weight.shape[1] ** 0.5)


def edit_config(folder: Path, *, without: tuple[str, ...] = (), **values: Any) -> None:
    """Take keys out of a checkpoint's config.json, then put these in."""
    path = folder / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in without}
    path.write_text(json.dumps({**kept, **values}))


def build(checkpoint: Path, target: Path, **config: Any) -> Path:
    """An engine in float32 unless `config` says otherwise; → `target`."""
    build_engine(Checkpoint.open(checkpoint), target, BuildConfig(**{"dtype": "float32", **config}))
    return target
