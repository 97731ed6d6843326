"""Baichuan and Baichuan 2 (Yang et al. 2023), the 7B models: Llama with q, k and v in one tensor.

Baichuan 2 scales its head's rows to length 1.
"""

from __future__ import annotations

from llmserve.config import ModelConfig
from llmserve.errors import CheckpointError
from llmserve.models import Family
from llmserve.models.decoder import DecoderSources
from llmserve.models.hf import HfConfig, decoder_config
from llmserve.models.sources import fused_attention, llama_like

BAICHUAN2_VOCABULARY = 125696
"""By which the second generation, of which config.json says nothing, is known."""


def read_config(hf: HfConfig) -> ModelConfig:
    if hf.values.get("max_position_embeddings") is None and hf.values.get("model_max_length") is not None:
        raise CheckpointError(
            "config.json is of a Baichuan 13B (it has model_max_length and no max_position_embeddings), whose ALiBi "
            "attention llmserve does not implement; it computes the 7B models."
        )
    unit = hf.values.get("vocab_size") == BAICHUAN2_VOCABULARY
    return decoder_config(hf, "baichuan", windows=hf.windows(None), unit_head=unit)


def sources(config: ModelConfig) -> DecoderSources:
    return llama_like(config, attention=lambda at, config: fused_attention(f"{at}.W_pack", f"{at}.o_proj", config))


FAMILY = Family(
    "baichuan",
    read_config,
    sources,
    models="Baichuan 7B, Baichuan 2 7B",
    checked="the logits of an equal Llama in transformers",
)
