"""Checkpoints that are incomplete, damaged, or not what their config.json says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.build.refusal import refusal
from tests.tiny import build, edit_config
from tests.tokenizer.conftest import byte_level

DOWN = "model.layers.1.mlp.down_proj.weight"
HEAD = "lm_head.weight"


def edit_weights(checkpoint: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    edit(weights)
    save_file(weights, checkpoint / "model.safetensors")


def test_a_missing_tensor(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.pop(DOWN))
    assert f"has no tensor {DOWN}" in refusal(checkpoint)


def test_a_missing_head_of_an_untied_model(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.pop(HEAD))
    assert f"has no tensor {HEAD}" in refusal(checkpoint)


def test_a_tensor_that_the_family_does_not_have(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}))
    assert refusal(checkpoint) == (
        "the checkpoint holds tensors that the family 'llama' does not use "
        "(model.layers.0.self_attn.q_norm.weight, 1 in all); an engine without them would answer wrongly."
    )


def test_more_layers_than_the_config_says(checkpoint: Path) -> None:
    edit_config(checkpoint, num_hidden_layers=1)
    assert "model.layers.1.input_layernorm.weight, 9 in all" in refusal(checkpoint)


def test_a_head_that_is_not_the_table_it_is_said_to_be(checkpoint: Path) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    assert refusal(checkpoint) == (
        "config.json says tie_word_embeddings=True, but lm_head.weight is not equal to model.embed_tokens.weight; "
        "correct the one or remove the other."
    )


def test_a_shape_that_contradicts_the_config(checkpoint: Path) -> None:
    edit_config(checkpoint, intermediate_size=256)
    assert refusal(checkpoint) == (
        "model.layers.0.mlp.gate_proj.weight has shape [128, 64], but config.json implies [256, 64]; "
        "the checkpoint and its config do not belong together."
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_a_weight_that_is_no_number(checkpoint: Path, quant: str, bad: float) -> None:
    edit_weights(checkpoint, lambda weights: weights[DOWN].__setitem__((3, 5), bad))
    assert refusal(checkpoint, quant=quant) == f"{DOWN} holds NaN or infinity; the checkpoint is damaged."


@pytest.mark.parametrize(
    "config, named", [({"dtype": "float16"}, "float16"), ({"quant": "int4", "dtype": "float32"}, "int4")]
)
def test_a_weight_too_large_for_how_it_is_stored(checkpoint: Path, config: dict[str, Any], named: str) -> None:
    edit_weights(checkpoint, lambda weights: weights[DOWN].__setitem__((3, 5), -1e6))
    assert refusal(checkpoint, **config).startswith(f"{DOWN}: weights as large as 1e+06 cannot be stored in {named};")


def test_an_unknown_architecture(checkpoint: Path) -> None:
    edit_config(checkpoint, architectures=["FalconForCausalLM"])
    assert refusal(checkpoint).startswith("config.json names the architecture ['FalconForCausalLM']; llmserve knows ")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", 16])
def test_a_dtype_that_we_do_not_compute_in(checkpoint: Path, dtype: object) -> None:
    edit_config(checkpoint, without=("torch_dtype",), dtype=dtype)
    assert refusal(checkpoint) == (
        f"config.json gives the dtype as {dtype!r}; choose one with --dtype float32, bfloat16 or float16."
    )
    build(checkpoint, checkpoint.parent / "engine", dtype="bfloat16")


def test_an_end_of_text_that_is_no_token_id(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    assert refusal(checkpoint) == ("eos_token_id is '</s>', which is no token id and no list of them.")


@pytest.mark.parametrize("wrong", [10**24, -5, 96])
@pytest.mark.parametrize("as_list", [True, False])
def test_an_end_of_text_outside_the_vocabulary(checkpoint: Path, wrong: int, as_list: bool) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, wrong] if as_list else wrong}))
    assert f"eos_token_id is {wrong}, but token ids go from 0 to 95;" in refusal(checkpoint)


@pytest.mark.parametrize(
    "key, value",
    [("temperature", -1), ("temperature", 101), ("temperature", 10**400), ("top_p", 5), ("top_p", 0), ("top_k", 10**20),
     ("top_k", -2), ("temperature", float("nan"))],
)  # fmt: skip
def test_a_default_that_no_request_could_have(checkpoint: Path, key: str, value: float) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({key: value}))
    assert f" says {key}={value!r:.10}" in refusal(checkpoint)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.bool, torch.uint8])
def test_weights_that_are_whole_numbers(checkpoint: Path, dtype: torch.dtype) -> None:
    edit_weights(checkpoint, lambda weights: weights.update({DOWN: weights[DOWN].to(dtype)}))
    assert refusal(checkpoint).startswith(f"{DOWN} is {str(dtype).removeprefix('torch.')}: a quantised checkpoint, ")


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_a_weight_beyond_float32(checkpoint: Path, quant: str) -> None:
    huge = torch.full((64, 128), 1e300, dtype=torch.float64)
    edit_weights(checkpoint, lambda weights: weights.update({DOWN: huge}))
    message = refusal(checkpoint, quant=quant, dtype="float32")
    assert message.startswith(f"{DOWN}: weights as large as 1e+300 cannot be stored in ")
    assert "--dtype float32" not in message


@pytest.mark.parametrize(
    "files, named",
    [
        ({"tokenizer.json": b"{"}, "tokenizer.json is not a usable tokenizer"),
        ({"tokenizer.json": None, "tokenizer_config.json": b"{"}, "tokenizer_config.json is not valid JSON"),
        ({"tokenizer.json": None, "chat_template.jinja": b"\xff"}, "chat_template.jinja is not UTF-8"),
        ({"tokenizer.json": None, "chat_template.jinja": b"{% if %}"}, "The chat template is not valid Jinja"),
        ({"tokenizer.model": b"x"}, "tokenizer.model is not a usable SentencePiece model"),
        ({"qwen.tiktoken": b"x"}, "qwen.tiktoken has no token and rank in line 1"),
        (
            {"vocab.json": b"{}", "merges.txt": b""},
            "vocab.json cannot be read without its code: its tokenizer class is not given",
        ),
        ({"vocab.txt": b"x"}, "has vocab.txt but no vocabulary that llmserve reads; make a tokenizer.json with"),
    ],
)
def test_a_tokenizer_that_no_server_could_use(checkpoint: Path, files: dict[str, bytes | None], named: str) -> None:
    for name, content in files.items():
        if content is None:
            byte_level().save(str(checkpoint / name))
        else:
            (checkpoint / name).write_bytes(content)
    message = refusal(checkpoint)
    assert named in message
    assert "build the engine again" not in message
