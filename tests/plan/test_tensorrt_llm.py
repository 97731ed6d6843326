"""Plans of TensorRT-LLM's engines: what its weights take, by hand, and what its builder refuses."""

from __future__ import annotations

import pytest

from llmserve.errors import ConfigError
from tests.plan.ask import ask, needs, on, real


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_qwen_7b_on_two_ranks_by_hand(quant: str) -> None:
    """Embedding whole, head halved, both in 16 bits; linear layers halved, with a 16-bit scale for each output."""

    def matrix(rows: int, columns: int) -> int:
        return {"none": 2 * rows * columns, "int8": rows * columns + 2 * rows, "int4": rows * columns // 2 + 2 * rows}[
            quant
        ]

    norms = 2 * 4096 * 2
    layer = norms + matrix(6144, 4096) + 6144 * 2 + matrix(4096, 2048) + matrix(11008, 4096) + matrix(4096, 5504)
    total = 151936 * 4096 * 2 + 32 * layer + 4096 * 2 + 151936 // 2 * 4096 * 2
    planned = needs(real("qwen-7b-chat"), backend="tensorrt-llm", quant=quant, dtype="float16", tp_size=2)
    assert [share.stored for share in planned.shares] == [total, total]
    assert [share.file for share in planned.shares] == [None, None]
    assert (planned.kv_token, planned.block_size) == (2 * 32 * 16 * 128 * 2, 32)
    assert "weights" in planned.estimated


def test_keys_and_values_of_8_bits_take_half_and_cost_reuse() -> None:
    wide, narrow = (
        needs(real("llama-3.1-8b"), backend="tensorrt-llm", engine={"kv_cache_dtype": kind})
        for kind in ("auto", "int8")
    )
    assert narrow.kv_token * 2 == wide.kv_token
    assert any("no prefix reuse" in note for note in narrow.notes)


def test_a_mixture_of_experts_reads_a_part_of_its_weights() -> None:
    (share,) = needs(real("qwen3-30b-a3b"), backend="tensorrt-llm", quant="int8").shares
    # 48 layers of 128 experts, each three matrices of 2048 × 768 and a scale for each output.
    assert share.experts == 48 * 128 * (3 * 2048 * 768 + 2 * (768 + 768 + 2048))


def test_blackwell_gets_no_integer_weights() -> None:
    got = on(real("llama-3.1-8b"), "B200", backend="tensorrt-llm", quant="int8", device="cuda")
    assert not got.fits
    assert "no int8 or int4 engines for compute capability 10.0 (B200)" in got.verdict
    assert on(real("llama-3.1-8b"), "B200", backend="tensorrt-llm", device="cuda").fits


@pytest.mark.parametrize(
    "asked, problem",
    [
        ({"tp_size": 14}, r"intermediate size \(4864\) over tp_size=14"),
        ({"dtype": "float32"}, "activations of 16 bits"),
        ({"group_size": 64, "quant": "int4"}, "--group-size is for native engines"),
        ({"head_quant": "int8"}, "--head-quant is for native engines"),
        ({"engine": {"kv_cache_dtype": "float32"}}, "has no --kv-cache-dtype float32"),
    ],
)
def test_what_it_cannot_build_is_refused(asked: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ask(real("qwen2.5-0.5b"), backend="tensorrt-llm", **asked)
