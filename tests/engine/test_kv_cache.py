"""How large the KV cache becomes, and the sentences for what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.config import EngineConfig, ModelConfig, Rope, parse_bytes
from llmserve.errors import ConfigError
from llmserve.runtime.kv_cache import DEFAULT_TOTAL, KVPlan, plan_kv_cache, why_shorter

MODEL = ModelConfig(
    family="llama", vocab_size=96, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=16, max_position=128, norm_eps=1e-6, rope=Rope(theta=1e4, dim=16), tie_embeddings=False,
    sliding_windows=(None, None),
)  # fmt: skip
TOKEN = 2 * 2 * 2 * 16 * 4  # bytes: keys and values, layers, KV heads, head size, float32


def plan(model: ModelConfig = MODEL, *, tp_size: int = 1, **config: Any) -> KVPlan:
    chosen = EngineConfig(**config)
    return plan_kv_cache(chosen, model, "float32", tp_size, chosen.block_size * TOKEN // MODEL.num_layers)


def refusal(model: ModelConfig = MODEL, *, tp_size: int = 1, **config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(model, tp_size=tp_size, **config)
    return str(caught.value)


def test_memory_becomes_blocks() -> None:
    made = plan(kv_cache_memory=10 * 16 * TOKEN + 1)
    assert (made.num_blocks, made.num_tokens, made.block_bytes) == (10, 160, 16 * TOKEN)


def test_without_a_size_it_holds_what_all_sequences_can_use() -> None:
    assert plan(max_num_seqs=3, block_size=10).num_tokens == 3 * 130
    assert plan(max_num_seqs=3, max_model_len=20).num_tokens == 3 * 32


@pytest.mark.parametrize("tp_size", [1, 4])
def test_without_a_size_the_ranks_share_the_default_and_take_no_more(tp_size: int) -> None:
    large = MODEL.model_copy(update={"max_position": 10**7})
    made = plan(large, tp_size=tp_size)
    assert DEFAULT_TOTAL * 0.99 < made.num_blocks * made.block_bytes * tp_size <= DEFAULT_TOTAL


def test_a_small_cache_limits_the_length_where_the_user_named_none() -> None:
    assert plan(kv_cache_memory=48 * TOKEN).max_model_len == 48
    assert plan(kv_cache_memory=480 * TOKEN).max_model_len == 128


def test_a_cache_that_shortens_what_the_model_takes_says_with_which_flags_it_would_not() -> None:
    def told(model: ModelConfig = MODEL, **config: Any) -> str | None:
        return why_shorter(plan(model, **config), EngineConfig(**config), model)

    large = MODEL.model_copy(update={"max_position": 10**7})
    message = told(large)
    assert message is not None
    words = message.replace(";", "").split()
    memory, length = (words[words.index(flag) + 1] for flag in ("--kv-cache-memory", "--max-model-len"))
    assert plan(large, kv_cache_memory=parse_bytes(memory)).max_model_len == 10**7
    assert plan(large).max_model_len == int(length) < 10**7
    assert told(large, kv_cache_memory=parse_bytes(memory)) is None
    assert told(large, max_model_len=int(length)) is None  # it is as the user says
    assert told(kv_cache_memory=48 * TOKEN) is not None
    assert told() is None


def test_a_length_that_the_cache_does_not_hold_is_refused_with_the_memory_that_would_do() -> None:
    message = refusal(max_model_len=100, kv_cache_memory=48 * TOKEN)
    assert message.startswith("the KV cache holds 48 tokens, less than --max-model-len 100;")
    enough = parse_bytes(message.split("at least ")[1].split(" per rank")[0])
    assert plan(max_model_len=100, kv_cache_memory=enough).max_model_len == 100
    assert "holds" in refusal(max_model_len=100, kv_cache_memory=enough - 1)


def test_a_length_that_the_model_was_not_made_for_is_refused() -> None:
    assert refusal(max_model_len=129) == (
        "--max-model-len 129 exceeds the 128 positions this model was made for; lower it."
    )


def test_memory_for_less_than_one_block_is_refused() -> None:
    assert refusal(kv_cache_memory=16 * TOKEN - 1) == (
        f"--kv-cache-memory {16 * TOKEN - 1}B is less than one block of 16 tokens takes (8KiB); "
        "raise --kv-cache-memory or lower --block-size."
    )


def test_a_block_beyond_the_default_memory_is_refused_with_what_would_do() -> None:
    huge = MODEL.model_copy(update={"num_layers": 10**6})
    message = refusal(huge, block_size=1024)
    assert message.startswith("the default, 4GiB per rank, is less than one block of 1024 tokens takes")
