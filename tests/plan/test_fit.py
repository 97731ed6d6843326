"""What fits, how much of it, and how fast: arithmetic over needs that a test makes up."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmserve.config import parse_bytes
from llmserve.errors import ConfigError
from llmserve.plan.fit import MB, Fit, fit
from llmserve.plan.machines import GPUS, Machine, find_gpu
from llmserve.plan.needs import Needs, Share
from tests.plan.ask import ask, on, real

SHARE = Share(stored=700 * MB, file=None, resident=800 * MB, scratch=100 * MB, read_always=500 * MB, experts=0)
NEEDS = Needs(
    shares=(SHARE, replace(SHARE, resident=600 * MB)), workspace=100 * MB, scores_token=0, kv_dtype="bfloat16",
    kv_layer_token=MB // 16 // 4, block_size=16, num_layers=4, windows=(None,) * 4, experts=0, experts_per_token=0,
    estimated=(), notes=(),
)  # fmt: skip
"""A block is a MB, and the rank that needs most needs 1000 MB before the first."""


def machine(memory: int, *, shared: bool = False, bandwidth: int | None = 1000 * MB) -> Machine:
    return Machine("m", memory * MB, bandwidth, None, shared, "a test")


def found(memory: int, needs: Needs = NEEDS, *, shared: bool = False, utilization: float = 1.0, **asked: Any) -> Fit:
    asked = {"wanted": None, "longest": 4096, "max_num_seqs": 64, **asked}
    return fit(needs, machine(memory, shared=shared), utilization=utilization, **asked)


def test_what_is_left_is_the_kv_cache() -> None:
    got = found(1256)
    assert (got.fits, got.kv_cache_memory, got.tokens, got.max_model_len) == (True, 256 * MB, 4096, 4096)
    assert got.verdict == "fits, with sequences of 4,096 tokens"


def test_a_block_less_makes_the_longest_sequence_shorter() -> None:
    got = found(1255)
    assert (got.fits, got.tokens, got.max_model_len) == (True, 4080, 4080)
    assert got.verdict == "fits, with sequences of up to 4,080 of the model's 4,096 tokens"
    assert not found(1255, wanted=4096).fits


def test_less_than_a_thousand_tokens_is_not_called_fitting_unless_the_model_has_no_more() -> None:
    assert found(1000 + 64).fits
    assert not found(1000 + 63).fits
    assert found(1000 + 63, wanted=1000).fits
    assert found(1000 + 32, longest=512).fits
    assert not found(1000 + 31, longest=512).fits


def test_what_does_not_fit_says_what_would_be_needed() -> None:
    got = found(1100, wanted=4096, utilization=0.5)
    assert got.verdict == (
        "does not fit: each rank needs 1.26 GB (1.00 GB for weights and workspace, 0.26 GB for one sequence of 4,096 "
        "tokens) and may use 0.55 GB of its 1.10 GB"
    )
    assert (got.max_model_len, got.at) == (0, ())


@pytest.mark.parametrize("asked", [{}, {"shared": True}, {"utilization": 0.9}, {"utilization": 0.7, "shared": True}])
def test_the_memory_that_is_named_is_enough_and_hardly_more(asked: dict[str, Any]) -> None:
    needed = found(1100, wanted=4096, **asked).needed // MB
    assert found(needed, wanted=4096, **asked).fits
    assert not found(needed - 15, wanted=4096, **asked).fits


def test_there_is_always_advice() -> None:
    """Where no flag helps, it is the memory that would."""
    small: dict[str, Any] = {"quant": "int4", "utilization": 0.9, "advise": True, "engine": {"kv_cache_dtype": "int8"}}
    for shared in (True, False):
        host = Machine("given", 10**9, None, None, shared, "--memory")
        asked = small if shared else {**small, "engine": {}, "device": "cuda", "tp_size": 16}
        (got,) = ask(real("llama-3.1-70b"), host, **asked).fits
        memory = re.search(r"with ([\d.]+ GB) (?:would fit \(--memory|each would fit)", got.advice[-1])
        assert memory is not None, got.advice
        enough = replace(host, memory=parse_bytes(memory[1]))
        assert ask(real("llama-3.1-70b"), enough, **asked).fits[0].fits


def test_of_several_gpus_that_are_mostly_too_small_one_gets_advice() -> None:
    asked: dict[str, Any] = {"device": "cuda", "utilization": 0.9, "advise": True}
    plan = ask(real("llama-3.1-70b"), *GPUS, **asked)
    advised = [got for got in plan.fits if got.advice]
    assert [got.machine.name for got in advised] == ["H200"]
    assert advised[0].advice[-2:] == ("--tp-size 2 would fit, on as many H200", "--gpu B200 would fit (180.00 GB each)")
    assert not any(got.advice for got in ask(real("qwen3-0.6b"), *GPUS, **asked).fits)


def test_scores_of_the_longest_sequence_take_what_its_keys_and_values_leave() -> None:
    """As many bytes for a token's scores as for its keys and values: one sequence of half the length, or two of it."""
    scored = replace(NEEDS, scores_token=NEEDS.kv_token)
    got = found(1256, scored)
    assert (got.max_model_len, got.tokens, got.workspace) == (2048, 2048, 228 * MB)
    got = found(1256, scored, wanted=1024)
    assert (got.tokens, got.at[-1].sequences) == (3072, 3)
    assert not found(1256, scored, wanted=2049).fits
    assert "1.13 GB for weights and workspace, 0.13 GB for one" in found(1256, scored, wanted=2049).verdict


def test_memory_that_may_not_be_used_is_not() -> None:
    assert found(2512, utilization=0.5).tokens == found(1256).tokens


def test_ranks_of_a_host_share_its_memory_and_bandwidth() -> None:
    alone, together = found(1256), found(2512, shared=True)
    assert together.tokens == alone.tokens
    assert together.at[-1].tokens_per_second_one == alone.at[-1].tokens_per_second_one * 0.5


def test_sequences_at_once_are_as_many_as_have_blocks_and_places() -> None:
    got = {at.length: at.sequences for at in found(1256).at}
    assert got == {1024: 4, 4096: 1}
    assert [at.sequences for at in found(1256, max_num_seqs=3).at] == [3, 1]
    odd = {at.length: at.sequences for at in found(1256, longest=2040).at}
    assert odd[2040] == 2  # 128 blocks each, the last of them not full


def test_a_ceiling_is_bandwidth_over_what_a_step_reads() -> None:
    """1000 MB a second; a step reads 500 MB of weights and a MB for every 16 tokens of every sequence."""
    at = {at.length: at for at in found(1256).at}
    assert at[1024].tokens_per_second_one == pytest.approx(1000 / (500 + 64))
    assert at[1024].tokens_per_second_all == pytest.approx(4 * 1000 / (500 + 4 * 64))
    unknown = fit(
        NEEDS, machine(1256, bandwidth=None), wanted=None, longest=4096, max_num_seqs=64, utilization=1.0
    )  # fmt: skip
    assert unknown.at[0].tokens_per_second_one is None


def test_the_rank_that_reads_most_is_waited_for() -> None:
    slower = replace(NEEDS, shares=(SHARE, replace(SHARE, read_always=900 * MB)))
    at = found(1256, slower).at[0]
    assert at.tokens_per_second_one == pytest.approx(1000 / (900 + 64))


def test_windows_bound_what_is_read_and_not_what_is_kept() -> None:
    windowed = replace(NEEDS, windows=(256, None, 256, None))
    assert found(1256, windowed).tokens == found(1256).tokens
    assert windowed.read_of_a_step(SHARE, 1, 1024) == 500 * MB + (2 * 256 + 2 * 1024) * NEEDS.kv_layer_token


def test_experts_are_read_as_far_as_tokens_go_to_them() -> None:
    mixture = replace(NEEDS, experts=8, experts_per_token=2)
    share = replace(SHARE, experts=80 * MB)
    read = [mixture.read_of_a_step(share, batch, 0) - share.read_always for batch in (1, 2, 1000)]
    assert read == pytest.approx([20 * MB, (20 + 15) * MB, 80 * MB])


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_is_found_by_its_name(gpu: Machine) -> None:
    assert find_gpu(gpu.name) is gpu
    assert find_gpu(f"NVIDIA {gpu.name.lower().replace('-', ' ')}") is gpu
    assert gpu.source.startswith("NVIDIA, ")
    assert gpu.bandwidth is not None


def test_a_name_that_may_be_several_or_none_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"may be any of these \(A100-40GB, A100-80GB, A100-80GB-PCIe\); say which"):
        find_gpu("A100")
    with pytest.raises(ConfigError, match=r"--gpu MI300 is none that llmserve knows \(A10, "):
        find_gpu("MI300")


def test_gpus_stand_in_the_order_of_their_memory() -> None:
    sizes = [gpu.memory for gpu in GPUS]
    assert sizes == sorted(sizes)
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_advice_is_what_then_fits() -> None:
    """Each piece, followed, is a plan that fits; and a smaller step of its kind is not."""
    asked: dict[str, Any] = {"device": "cuda", "utilization": 0.9, "engine": {"max_model_len": 32768}}
    subject = real("llama-3.1-70b")
    got = on(subject, "H100", advise=True, **asked)
    assert not got.fits
    assert got.advice == ("--tp-size 4 would fit, on as many H100", "--gpu B200 would fit (180.00 GB each)")
    assert on(subject, "H100", tp_size=4, **asked).fits
    assert not on(subject, "H100", tp_size=2, **asked).fits
    assert on(subject, "B200", **asked).fits
    assert not on(subject, "H200", **asked).fits


def test_advice_about_a_length_is_the_longest_that_fits() -> None:
    engine = {"max_model_len": 32768}
    asked: dict[str, Any] = {"quant": "int8", "device": "cuda", "utilization": 0.9}
    got = on(real("qwen-7b-chat"), "L4", advise=True, engine=engine, dtype="bfloat16", **asked)
    length = int(got.advice[0].removeprefix("--max-model-len ").removesuffix(" would fit"))
    for tokens, fits in ((length, True), (length + 1, False)):
        engine = {"max_model_len": tokens}
        assert on(real("qwen-7b-chat"), "L4", engine=engine, dtype="bfloat16", **asked).fits is fits


class Memory(TorchDispatchMode):
    """The largest tensor that was made of memory."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor) and part.device.type != "meta":
                self.largest = max(self.largest, part.nbytes)
        return made


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_largest_models_are_planned_without_memory_for_them(device: str) -> None:
    with Memory() as memory:
        plan = ask(real("qwen2.5-72b"), quant="int4", device=device)
    assert sum(share.resident for share in plan.needs.shares) > 39e9
    assert memory.largest < 1e6
