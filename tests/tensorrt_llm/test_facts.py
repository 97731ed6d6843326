"""What may not differ between ranks, each as the one sentence that a user reads."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmserve.config import TensorRTLLMFacts
from llmserve.tensorrt_llm.device import Gpu
from llmserve.tensorrt_llm.facts import Facts, Place, compare_facts, compare_places, read_facts, read_places

ENGINE = TensorRTLLMFacts(
    version="1.2.1", tensorrt_version="10.14.1", gpu="H200", sm=90, max_batch_size=1, max_input_len=1, max_seq_len=2,
    max_num_tokens=1, tokens_per_block=32, paged_context=True,
)  # fmt: skip
SIZES = [50, 50]
RANKS = [Facts(f"host{i}", "1.2.1", "10.14.1", Gpu("H200", 90, f"GPU-{i}", 60, 100)) for i in range(2)]


def with_gpu(facts: Facts, **changes: object) -> Facts:
    assert facts.gpu is not None
    return replace(facts, gpu=replace(facts.gpu, **changes))


def test_ranks_that_fit_have_no_problem_also_after_their_journey() -> None:
    assert compare_facts(read_facts([facts.encode() for facts in RANKS]), ENGINE, SIZES) == ""
    places = [Place("host", "abc"), Place("host", "abc")]
    assert read_places([place.encode() for place in places]) == places
    assert compare_places(places) == ""


@pytest.mark.parametrize(
    "other, sentence",
    [
        (replace(RANKS[1], version="1.1.0"), "rank 1 (on host1) has tensorrt_llm 1.1.0, and the engine was built with"),
        (replace(RANKS[1], tensorrt_version="10.11"), "rank 1 (on host1) has TensorRT 10.11, and the engine was"),
        (with_gpu(RANKS[1], sm=80, name="A100"), "compute capability 8.0 (A100), and the engine was built for 9.0"),
        (with_gpu(RANKS[1], free=49), "rank 1's GPU on host1 has 49 bytes free of 100 bytes, and its engine alone"),
        (replace(with_gpu(RANKS[1], uuid="GPU-0"), host="host0"), "ranks 0 and 1 would share a GPU of host0"),
        (Facts("host1", problem="no GPU."), "rank 1: no GPU."),
    ],
)
def test_one_that_does_not_fit_is_named(other: Facts, sentence: str) -> None:
    told = compare_facts([RANKS[0], other], ENGINE, SIZES)
    assert sentence in told
    assert told.count("\n") == 0
    assert told.endswith(".")


def test_what_all_ranks_lack_is_said_once() -> None:
    nowhere = [Facts("host", problem="no GPU.")] * 2
    assert compare_facts(nowhere, ENGINE, SIZES) == "no GPU."


def test_another_manifest_is_found_before_anything_is_loaded() -> None:
    told = compare_places([Place("a", "abc"), Place("b", "abd")])
    assert told.startswith("rank 1 (on b) has another engine.json than rank 0 (on a);")


def test_the_same_gpu_in_two_hosts_is_not_shared() -> None:
    assert compare_facts([RANKS[0], with_gpu(RANKS[1], uuid="GPU-0")], ENGINE, SIZES) == ""


def test_facts_are_short() -> None:
    assert len(RANKS[0].encode()) < 1000
    assert json.loads(RANKS[0].encode())["gpu"]["sm"] == 90
