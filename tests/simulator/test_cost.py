"""What a step has to do and how long that takes, by hand; and imaginary machines by their data sheets."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulator.cost import Machine, Work
from simulator.imaginary import GPUS, MODELS, cost_of, imagine

from llmserve.errors import ConfigError
from llmserve.scheduler import Chunk, StepPlan

from .cases import cost, machine


def test_the_work_of_a_plan() -> None:
    plan = StepPlan.of(
        (
            Chunk(0, 9, 3, (5,), (), 1),  # decodes: its token sees itself and 9 before
            Chunk(1, 4, 1, (5, 6, 7), (2,), 0),  # the middle of a prompt: its tokens see 5, 6 and 7
            Chunk(2, 0, 0, (5, 6), (3,), 1),  # a whole prompt: 1 and 2
        )
    )
    assert Work.of(plan) == Work(tokens=6, sequences=2, contexts=10 + 7 + 2, pairs=10 + 18 + 3)


def test_the_seconds_of_a_step() -> None:
    model = cost(fixed=100, token=10, knee=3, pair=1, context=0.5, sequence=7)
    assert model.seconds(Work(tokens=5, sequences=2, contexts=8, pairs=11)) == 100 + 10 * 5 + 11 + 0.5 * 8 + 7 * 2
    assert model.seconds(Work(tokens=2, sequences=2, contexts=8, pairs=11)) == 100 + 10 * 3 + 11 + 0.5 * 8 + 7 * 2


def test_a_machine_comes_back_from_its_file(tmp_path: Path) -> None:
    made = machine(cost(token=1e-5, knee=17))
    made.write(tmp_path / "machine.json")
    assert Machine.read(tmp_path / "machine.json") == made


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"}', "\udce9"])
def test_a_file_that_holds_no_machine_is_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"machine\.json describes no machine \(.*\); `--calibrate ENGINE` writes"):
        Machine.read(file)
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read: No such file or directory"):
        Machine.read(tmp_path / "absent.json")


def test_a_shape_has_its_models_size() -> None:
    """Qwen2.5-7B: 7.62 billion parameters, of which norms and biases are not counted here; Llama-2-7B: 6.74."""
    qwen, llama = MODELS["7b-like"], MODELS["7b-mha-like"]
    assert qwen.weight_bytes / 2 == pytest.approx(7.62e9, rel=1e-3)
    assert llama.weight_bytes / 2 == pytest.approx(6.74e9, rel=1e-3)
    assert qwen.kv_bytes == 57_344
    assert llama.kv_bytes == 524_288


def test_an_imaginary_machine_is_bound_by_its_roofline() -> None:
    """Alone, a token takes at least what reading the layers takes; in a large batch, what multiplying takes."""
    gpu, model = GPUS["h200-like"], MODELS["7b-like"]
    made = cost_of(gpu, model)
    alone = made.seconds(Work(1, 1, 100, 100))
    assert alone > 2 * (model.layer_weights + model.head_weights) / gpu.bandwidth
    assert alone < 2 * 2 * (model.layer_weights + model.head_weights) / gpu.bandwidth
    prompt = made.seconds(Work(4096, 1, 4096, 4096 * 4097 // 2))
    assert prompt > 4096 * 2 * model.layer_weights / gpu.flops
    assert prompt < 2 * 4096 * 2 * model.layer_weights / gpu.flops


def test_a_model_that_leaves_no_room_is_one_sentence() -> None:
    assert imagine("l4-like", "7b-like", max_num_seqs=8, max_model_len=6000).kv_tokens > 100_000
    with pytest.raises(ConfigError, match=r"^7b-like on l4-like leaves 6\.4 GB for the KV cache, which is less than"):
        imagine("l4-like", "7b-like", max_num_seqs=8, max_model_len=200_000)
