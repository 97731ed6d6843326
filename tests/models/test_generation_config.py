"""generation_config.json: what ends an answer and how long it may become; what cannot be done is said or refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.config import GenerationDefaults
from llmserve.errors import CheckpointError
from llmserve.models.generation import Generation, read_generation


@pytest.mark.parametrize(
    "config, given, tokenizer_eos, expected",
    [
        ({"eos_token_id": 2}, {}, None, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, None, (5, 6)),
        ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, 6, (5, 6)),
        ({"eos_token_id": 2}, {}, 7, (2, 7)),  # as in vLLM: the tokenizer's own end ends an answer too
        ({}, {}, 7, (7,)),
        ({}, {"eos_token_id": 1, "stop_words_ids": [[1], [4], [4]]}, 3, (1, 4, 3)),
        ({}, {"eos_token_id": 1}, 96, (1,)),  # a token that the model has no row for
    ],
)
def test_what_ends_an_answer(
    config: dict[str, Any], given: dict[str, Any], tokenizer_eos: int | None, expected: tuple[int, ...]
) -> None:
    assert read_generation(config, given, 96, tokenizer_eos).defaults.eos_token_ids == expected


def test_how_long_an_answer_may_become() -> None:
    assert read_generation({}, {"max_new_tokens": 512}, 96).defaults == GenerationDefaults(max_tokens=512)
    assert read_generation({}, {"max_new_tokens": None}, 96).defaults == GenerationDefaults()


def test_what_a_request_gets_where_it_does_not_say() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}
    assert read_generation({}, given, 96) == Generation(GenerationDefaults(**given), ())


def test_stop_words_of_several_tokens_are_told() -> None:
    generation = read_generation({}, {"stop_words_ids": [[1], [2, 3]]}, 96)
    assert generation.not_applied == ("stop_words_ids=[2, 3]",)


@pytest.mark.parametrize(
    "given",
    [{"stop_words_ids": 5}, {"stop_words_ids": [5]}, {"stop_words_ids": [["a"]]}, {"stop_words_ids": [[96]]},
     {"max_new_tokens": 0}, {"max_new_tokens": "many"}, {"min_p": 2}, {"repetition_penalty": 0}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_name(given: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(given))):
        read_generation({}, given, 96)
