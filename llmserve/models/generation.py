"""generation_config.json: what a checkpoint's author wants where a request does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmserve.config import GenerationDefaults
from llmserve.errors import CheckpointError
from llmserve.models.hf import HfConfig

NOT_APPLIED = {
    "bad_words_ids": None,
    "min_p": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "repetition_penalty": 1,
    "suppress_tokens": None,
    "typical_p": 1,
}
"""Wishes that the sampler cannot fulfil yet, and the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Generation:
    defaults: GenerationDefaults
    not_applied: tuple[str, ...]  # `key=value` of each wish that stays unfulfilled; a build shows them


def read_generation(config: dict[str, Any], generation_config: dict[str, Any], vocab_size: int) -> Generation:
    """Raises CheckpointError. The end-of-text ids are config.json's where generation_config.json names none."""
    given = HfConfig(generation_config)
    eos = generation_config.get("eos_token_id", config.get("eos_token_id"))  # null: there is none
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(i) is int for i in ids):
        raise CheckpointError(f"eos_token_id is {eos!r:.200}, which is no token id and no list of them.")
    if outside := [i for i in ids if not 0 <= i < vocab_size]:
        raise CheckpointError(
            f"eos_token_id is {outside[0]!r:.200}, but token ids go from 0 to {vocab_size - 1}; correct it in "
            "generation_config.json or config.json."
        )
    temperature, top_p = given.get("temperature", float, None), given.get("top_p", float, None)
    top_k = given.get("top_k", int, None)
    for key, value, ok, rule in (
        ("temperature", temperature, lambda t: 0 <= t <= 100, "between 0 and 100"),
        ("top_p", top_p, lambda p: 0 < p <= 1, "above 0 and at most 1"),
        ("top_k", top_k, lambda k: -1 <= k < 2**31, "0 or -1 (off) or a count below 2**31"),
    ):
        if value is not None and not ok(value):
            raise CheckpointError(f"generation_config.json says {key}={value!r:.200}; it must be {rule}.")
    if given.values.get("do_sample") is False:
        temperature = 0.0  # the author's way to say: greedy
    return Generation(
        GenerationDefaults(
            eos_token_ids=tuple(ids),
            temperature=temperature,
            top_p=top_p,
            top_k=None if top_k is None else max(top_k, 0),
        ),
        tuple(f"{k}={v!r:.50}" for k, v in generation_config.items() if v not in (None, NOT_APPLIED.get(k, v))),
    )
