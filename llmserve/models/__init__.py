"""The families: one short file each. Adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from llmserve.config import ModelConfig, first_problem
from llmserve.errors import CheckpointError, EngineDirError
from llmserve.layers.layout import Layout
from llmserve.layers.rope import rotation
from llmserve.models.decoder import Decoder, DecoderSources
from llmserve.models.hf import HfConfig

ARCHITECTURES = {
    "BaiChuanForCausalLM": "baichuan",
    "BaichuanForCausalLM": "baichuan",
    "ChatGLMForConditionalGeneration": "chatglm",
    "ChatGLMModel": "chatglm",
    "GPT2LMHeadModel": "gpt2",
    "Gemma2ForCausalLM": "gemma2",
    "GemmaForCausalLM": "gemma",
    "Glm4ForCausalLM": "glm4",
    "GlmForCausalLM": "glm",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Phi3ForCausalLM": "phi3",
    "QWenLMHeadModel": "qwen1",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
"""config.json's `architectures` entry → module of this package, which defines `FAMILY`."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is particular to a family: what its config.json means, and where its checkpoint keeps things."""

    name: str
    read_config: Callable[[HfConfig], ModelConfig]
    sources: Callable[[ModelConfig], DecoderSources]
    models: str  # which there are
    checked: str  # what its computation was compared with


def families() -> dict[str, Family]:
    """Architecture → family, of all that there are."""
    return {architecture: _family(module) for architecture, module in ARCHITECTURES.items()}


def _family(module: str) -> Family:
    if module not in ARCHITECTURES.values():
        raise EngineDirError(
            f"the engine's family is {module!r:.200}, of which llmserve knows nothing (it knows "
            f"{', '.join(sorted(ARCHITECTURES.values()))}); update llmserve or build the engine again."
        )
    return import_module(f"llmserve.models.{module}").FAMILY


def read_config(hf: dict[str, Any]) -> ModelConfig:
    """config.json → ModelConfig; CheckpointError where we cannot compute what it asks for."""
    architectures = hf.get("architectures") or []
    named = architectures if isinstance(architectures, list) else []
    known = [a for a in named if isinstance(a, str) and a in ARCHITECTURES]
    if not known:
        raise CheckpointError(
            f"config.json names the architecture {architectures!r:.200}; llmserve knows "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    try:
        config = _family(ARCHITECTURES[known[0]]).read_config(HfConfig(hf))
        turns = rotation(config.rope, config.head_dim, config.max_position)
    except ValidationError as e:
        raise CheckpointError(f"config.json cannot be used: {first_problem(e)}.") from None
    except ArithmeticError as e:
        raise CheckpointError(f"config.json has numbers for its rope that cannot be computed with ({e}).") from None
    if not turns.inverse_frequencies.isfinite().all():
        raise CheckpointError("config.json has numbers for its rope that make frequencies beyond float32.")
    return config


def make_model(config: ModelConfig, layout: Layout) -> Decoder:
    """One rank's share of the model, without weights. BuildError where `layout` cannot cut it."""
    return Decoder(config, _family(config.family).sources(config), layout)
