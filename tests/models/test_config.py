"""config.json → ModelConfig: as transformers understands it, or an error that names what we do not compute."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.config import ModelConfig, Rope
from llmserve.errors import CheckpointError
from llmserve.models import read_config
from tests.tiny import CLASSES

BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def read(family: str = "llama", **keys: Any) -> ModelConfig:
    return read_config({"architectures": [CLASSES[family]], **BASE, **keys})


def refusal(family: str = "llama", **keys: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(family, **keys)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "family, keys",
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
        ("mistral", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 16}),
        ("qwen2", {"num_attention_heads": 32}),
        ("qwen2", {"num_key_value_heads": None}),
        ("qwen2", {"num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 1}),
        ("qwen2", {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 16}),
        ("qwen2", {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": None,
                   "max_window_layers": 0}),
        ("qwen2", {"num_key_value_heads": 2, "sliding_window": 16, "max_window_layers": 0}),
        ("qwen2", {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0,
                   "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("qwen3", {"num_attention_heads": 32}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    ],
)  # fmt: skip
def test_what_config_json_leaves_away_is_what_transformers_takes(family: str, keys: dict[str, Any]) -> None:
    import transformers

    theirs = getattr(transformers, CLASSES[family].replace("ForCausalLM", "Config"))(**BASE | keys)
    ours = read(family, **keys)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    window = getattr(theirs, "sliding_window", None)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.sliding_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


def test_layer_types_of_a_mistral_say_which_layers_have_the_window() -> None:
    """transformers' AutoModel takes such a file for a Ministral, which computes just that."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert read("mistral", sliding_window=16, layer_types=kinds).sliding_windows == (16, None, 16)


@pytest.mark.parametrize(
    "keys, named",
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config={'quant_method': 'awq'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}, "full_attention"),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 64}, "original_max_position_embeddings=64"),
        ({"sliding_window": 16}, "sliding_window=16"),
        ({"layer_types": ["sliding_attention"] * 3}, "'sliding_attention' in layer_types"),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "'chunked_attention'"),
        ({"layer_types": ["full_attention"]}, "1 layer_types for num_hidden_layers=3"),
        ({"dual_chunk_attention_config": {"chunk_size": 64}}, "dual_chunk_attention_config={'chunk_size': 64}"),
        ({"use_mrope": True}, "use_mrope=True"),
    ],
)
def test_a_key_that_we_do_not_compute_is_refused_by_its_name(keys: dict[str, Any], named: str) -> None:
    assert named in refusal(**keys)


@pytest.mark.parametrize(
    "keys, named",
    [
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": "64"}, "hidden_size='64'"),
        ({"num_attention_heads": True}, "num_attention_heads=True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"head_dim": 15}, "head_dim=15"),
        ({"head_dim": 2**30}, "head_dim=1073741824"),
        ({"num_attention_heads": 128}, "head_dim=0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; llmserve computes at most 10000"),
        ({"vocab_size": 10**400}, "at most 2147483647"),
        ({"rope_theta": 10**400}, "rope_theta=1000000"),
        ({"layer_types": [[1]]}, "[1] in layer_types"),
        ({"architectures": 5}, "names the architecture 5;"),
        ({"architectures": [["a"]]}, "names the architecture [['a']];"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps=-1e-06"),
        ({"rope_theta": 0}, "rope_theta=0.0"),
        ({"rope_scaling": {"type": "linear"}}, "no factor"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4}}, "no long_factor"),
        ({"rope_scaling": {"type": "su", "factor": 4.0, "short_factor": [1.0] * 7}}, "needs 4 numbers"),
        ({"rope_scaling": {"type": "su", "factor": 4.0, "short_factor": [0.0] * 4}}, "short_factor as [0.0, 0.0"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor=0.0"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor=1.0"),
        ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": None}}, "no original_max_position_embeddings"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name(keys: dict[str, Any], named: str) -> None:
    assert named in refusal(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"hidden_act": "swish"},  # another name of SiLU
        {"attention_dropout": 0.1, "initializer_range": 0.02, "pretraining_tp": 2, "use_cache": False},
        {"partial_rotary_factor": 1.0, "quantization_config": None, "sliding_window": None, "use_mrope": False},
        {"rope_scaling": None, "rope_parameters": None},
    ],
)
def test_a_key_that_changes_nothing_is_no_obstacle(keys: dict[str, Any]) -> None:
    assert read(**keys) == read()


def test_an_architecture_that_we_do_not_know_is_refused_with_those_we_do() -> None:
    with pytest.raises(CheckpointError, match=r"'T5ForConditionalGeneration'.*LlamaForCausalLM"):
        read_config({"architectures": ["T5ForConditionalGeneration"], **BASE})
    with pytest.raises(CheckpointError, match="names the architecture"):
        read_config(dict(BASE))


def test_rope_theta_inside_rope_parameters_goes_before_one_beside_it() -> None:
    assert read(rope_theta=1e4, rope_parameters={"rope_type": "default", "rope_theta": 5e5}).rope == Rope(
        theta=5e5, dim=8
    )


def test_rope_scaling_goes_before_rope_parameters() -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    rope = read(rope_theta=5e5, rope_scaling=scaling, rope_parameters={"rope_type": "default"}).rope
    assert rope == Rope(theta=5e5, dim=8, kind="linear", factor=2.0)
