"""generation_config.json: what a checkpoint's author wants where a request does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmserve.config import GenerationDefaults
from llmserve.errors import CheckpointError
from llmserve.models.hf import HfConfig

NOT_APPLIED = {
    "bad_words_ids": None,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "suppress_tokens": None,
    "typical_p": 1,
}
"""Wishes that the sampler cannot fulfil yet, and the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Generation:
    defaults: GenerationDefaults
    not_applied: tuple[str, ...]  # `key=value` of each wish that stays unfulfilled; a build shows them


def read_generation(
    config: dict[str, Any], generation_config: dict[str, Any], vocab_size: int, tokenizer_eos: int | None = None
) -> Generation:
    """Raises CheckpointError. The end-of-text ids are config.json's where generation_config.json names none.

    As in vLLM, the tokenizer's own end ends an answer too, and `max_new_tokens` is how long an answer in a chat may
    become where its request does not say. Qwen v1's `stop_words_ids` count where they are single tokens.
    """
    given = HfConfig(generation_config)
    eos = generation_config.get("eos_token_id", config.get("eos_token_id"))  # null: there is none
    ids = [] if eos is None else list(eos) if isinstance(eos, list) else [eos]
    if not all(type(i) is int for i in ids):
        raise CheckpointError(f"eos_token_id is {eos!r:.200}, which is no token id and no list of them.")
    if outside := [i for i in ids if not 0 <= i < vocab_size]:
        raise CheckpointError(
            f"eos_token_id is {outside[0]!r:.200}, but token ids go from 0 to {vocab_size - 1}; correct it in "
            "generation_config.json or config.json."
        )
    words, not_applied = _stop_words(given, vocab_size)
    ends = [*words] if tokenizer_eos is None else [*words, tokenizer_eos]
    ids += [id for id in dict.fromkeys(ends) if id not in ids and id < vocab_size]
    temperature, top_p = given.get("temperature", float, None), given.get("top_p", float, None)
    min_p, repetition = given.get("min_p", float, None), given.get("repetition_penalty", float, None)
    top_k, max_tokens = given.get("top_k", int, None), given.get("max_new_tokens", int, None)
    for key, value, ok, rule in (
        ("temperature", temperature, lambda t: 0 <= t <= 100, "between 0 and 100"),
        ("top_p", top_p, lambda p: 0 < p <= 1, "above 0 and at most 1"),
        ("top_k", top_k, lambda k: -1 <= k < 2**31, "0 or -1 (off) or a count below 2**31"),
        ("min_p", min_p, lambda p: 0 <= p <= 1, "between 0 and 1"),
        ("repetition_penalty", repetition, lambda r: 0 < r <= 100, "above 0 and at most 100"),
        ("max_new_tokens", max_tokens, lambda n: 1 <= n < 2**31, "at least 1 and below 2**31"),
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
            min_p=min_p,
            repetition_penalty=repetition,
            max_tokens=max_tokens,
        ),
        not_applied
        + tuple(f"{k}={v!r:.50}" for k, v in generation_config.items() if v not in (None, NOT_APPLIED.get(k, v))),
    )


def _stop_words(given: HfConfig, vocab_size: int) -> tuple[list[int], tuple[str, ...]]:
    """Those of one token, and what is to be said of the others."""
    words = given.get("stop_words_ids", list, None) or []
    if not all(isinstance(word, list) and all(type(i) is int and 0 <= i < vocab_size for i in word) for word in words):
        raise CheckpointError(
            f"generation_config.json says stop_words_ids={words!r:.200}; they must be lists of token ids from 0 to "
            f"{vocab_size - 1}."
        )
    long = tuple(f"stop_words_ids={word!r:.50}" for word in words if len(word) > 1)
    return [word[0] for word in words if len(word) == 1], long
