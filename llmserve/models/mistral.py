"""Mistral 7B and its kin (Jiang et al. 2023): Llama with a sliding window, where the config gives one."""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.models import Family
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import llama_like


def read_config(hf: HfConfig) -> ModelConfig:
    hf = hf.with_defaults(num_key_value_heads=8, sliding_window=4096)
    return decoder_config(hf, "mistral", windows=hf.windows(hf.count("sliding_window", None)))


FAMILY = Family(
    "mistral",
    read_config,
    llama_like,
    models="Mistral 7B, Mistral Nemo",
    checked="transformers' logits and greedy tokens",
)
