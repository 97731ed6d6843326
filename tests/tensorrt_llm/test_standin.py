"""The stand-in for TensorRT-LLM does what the contract says of the real one, and lets through no other call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmserve.engine.launch import find_mpirun, rank_environment
from tests.tensorrt_llm.standin import ROOT, StandIn
from tests.tensorrt_llm.standin.in_process import installed

VOCAB = 500
PATIENCE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("standin"), ends_after=6)


@pytest.fixture(scope="module")
def tensorrt_llm(stand_in: StandIn) -> Iterator[ModuleType]:
    with installed(stand_in) as module:
        yield module


@pytest.fixture(scope="module")
def trtllm(tensorrt_llm: ModuleType) -> ModuleType:
    return sys.modules["tensorrt_llm.bindings.executor"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = {"vocab_size": VOCAB, "hidden_size": 8, "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def build(tensorrt_llm: Any, checkpoint: Path, output: Path, tp_size: int = 1, **limits: Any) -> Path:
    for rank in range(tp_size):
        mapping = tensorrt_llm.Mapping(world_size=tp_size, rank=rank, tp_size=tp_size)
        model = sys.modules["tensorrt_llm.models"].QWenForCausalLM.from_hugging_face(str(checkpoint), mapping=mapping)
        config = tensorrt_llm.BuildConfig(output_timing_cache=None, **limits)
        tensorrt_llm.build(model, config).save(str(output))
    return output


@pytest.fixture(scope="module")
def engine(tensorrt_llm: ModuleType, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tensorrt_llm, checkpoint, tmp_path_factory.mktemp("engine"), max_batch_size=4)


@pytest.fixture
def executor(trtllm: Any, engine: Path) -> Iterator[Any]:
    config = trtllm.ExecutorConfig(max_queue_size=40, enable_chunked_context=True, max_num_tokens=16)
    made = trtllm.Executor(engine, trtllm.ModelType.DECODER_ONLY, config)
    yield made
    made.shutdown()


def finish(executor: Any, *requests: Any) -> list[list[Any]]:
    """Every request's results, in order."""
    ids = executor.enqueue_requests(list(requests))
    results: dict[int, list[Any]] = {id: [] for id in ids}
    while not all(each and each[-1].is_final for each in results.values()):
        for response in executor.await_responses(PATIENCE):
            results[response.request_id].append(response.result)
    return [results[id] for id in ids]


def tokens(results: list[Any]) -> list[int]:
    return [token for result in results for token in result.output_token_ids[0]]


def expected(prompt: list[int], count: int, seed: int | None = None) -> list[int]:
    return sys.modules["tensorrt_llm._answers"].answer(prompt, count, VOCAB, seed)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("Request([1], 2, top_k=1)", "unexpected keyword argument 'top_k'"),
        ("Request([1])", "missing a required argument: 'max_tokens'"),
        ("Request([1], 2.0)", "max_tokens=2.0 is no int"),
        ("Request('ab', 2)", "input_token_ids='ab' is no Sequence"),
        ("Request([1], 2, stop_words=[3])", r"stop_words=\[3\] is no Sequence"),
        ("Request([1], 2, streaming=1)", "streaming=1 is no bool"),
        ("SamplingConfig(1, 5)", "too many positional arguments"),
        ("KvCacheConfig(True)", "too many positional arguments"),
        ("Executor('x', ModelType.DECODER_ONLY)", "missing a required argument: 'executor_config'"),
    ],
)
def test_a_call_that_does_not_bind_is_refused(trtllm: Any, call: str, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        eval(call, vars(trtllm))


def test_attributes_are_those_of_the_contract(trtllm: Any, tensorrt_llm: Any) -> None:
    config = tensorrt_llm.BuildConfig()
    config.plugin_config.gemm_plugin = "auto"
    assert config.plugin_config.use_paged_context_fmha is True
    with pytest.raises(AttributeError, match="no attribute paged_context"):
        config.plugin_config.paged_context = True
    with pytest.raises(TypeError, match="is no bool"):
        config.plugin_config.use_paged_context_fmha = "enable"
    with pytest.raises(AttributeError, match="no attribute input_token_ids that can be set"):
        trtllm.Request([1], 2).input_token_ids = [2]
    with pytest.raises(AttributeError):
        trtllm.Request([1], 2).kv_cache_retention_config  # noqa: B018


def test_an_answer_comes_in_pieces_or_at_once_and_is_the_same(trtllm: Any, executor: Any) -> None:
    prompt = [3, 1, 4]
    output = trtllm.OutputConfig(exclude_input_from_output=True)
    pieces, whole, echoed = finish(
        executor,
        trtllm.Request(prompt, 5, streaming=True),
        trtllm.Request(prompt, 5, output_config=output),
        trtllm.Request(prompt, 5),
    )
    assert [len(each.output_token_ids[0]) for each in pieces] == [1] * 5
    assert tokens(pieces) == tokens(whole) == expected(prompt, 5)
    assert tokens(echoed) == prompt + expected(prompt, 5)
    assert [each.finish_reasons for each in pieces[:-1]] == [[trtllm.FinishReason.NOT_FINISHED]] * 4
    assert pieces[-1].finish_reasons == whole[-1].finish_reasons == [trtllm.FinishReason.LENGTH]


def test_sampled_answers_depend_on_the_seed_and_greedy_ones_do_not(trtllm: Any, executor: Any) -> None:
    def sampling(**values: Any) -> Any:
        return trtllm.Request([9], 5, streaming=True, sampling_config=trtllm.SamplingConfig(**values))

    one, two, again, greedy, unset = finish(
        executor,
        sampling(top_p=0.9, temperature=1.0, seed=1),
        sampling(top_p=0.9, temperature=1.0, seed=2),
        sampling(top_p=0.9, temperature=1.0, seed=1),
        sampling(top_k=1, seed=1),
        sampling(temperature=1.0, seed=1),
    )
    assert tokens(one) == tokens(again) == expected([9], 5, 1) != tokens(two) == expected([9], 5, 2)
    assert tokens(greedy) == tokens(unset) == expected([9], 5)


def test_how_an_answer_ends(trtllm: Any, executor: Any) -> None:
    prompt, output = [2, 7], trtllm.OutputConfig(return_log_probs=True)
    answer = expected(prompt, 20)
    ended, kept, stopped, shunned = finish(
        executor,
        trtllm.Request(prompt, 20, streaming=True, end_id=5, output_config=output),
        trtllm.Request(prompt, 20, streaming=True, end_id=5, sampling_config=trtllm.SamplingConfig(min_tokens=9)),
        trtllm.Request(prompt, 20, streaming=True, stop_words=[answer[1:4], [VOCAB - 1]], output_config=output),
        trtllm.Request(prompt, 3, streaming=True, bad_words=[[answer[0]]]),
    )
    assert tokens(ended) == answer[:6]
    assert ended[-1].output_token_ids == [[]]  # the token that ends it was chosen, and is not told
    assert ended[-1].finish_reasons == [trtllm.FinishReason.END_ID]
    assert [len(each.log_probs[0]) for each in ended] == [1, 2, 3, 4, 5, 6, 7]
    assert len(tokens(kept)) == 9
    assert tokens(stopped) == answer[:4]
    assert stopped[-1].finish_reasons == [trtllm.FinishReason.STOP_WORDS]
    assert stopped[-1].cum_log_probs == [sum(stopped[-1].log_probs[0])]
    assert tokens(shunned)[0] == answer[0] + 1


def test_a_batch_is_each_one_alone(trtllm: Any, executor: Any) -> None:
    prompts = [[i, i + 1, i + 2] for i in range(20)]
    together = finish(executor, *(trtllm.Request(prompt, 7, streaming=True) for prompt in prompts))
    assert [tokens(each) for each in together] == [expected(prompt, 7) for prompt in prompts]


def test_cancelling(trtllm: Any, executor: Any, stand_in: StandIn) -> None:
    stand_in.switch("hang")  # or they may have ended before they are cancelled
    long, waits = executor.enqueue_requests([trtllm.Request([i], 100, streaming=True) for i in range(2)])
    executor.cancel_request(long)
    executor.cancel_request(waits)
    stand_in.switch("hang", False)
    last = {}
    while len(last) < 2:
        last.update({r.request_id: r.result for r in executor.await_responses(PATIENCE) if r.result.is_final})
    assert {each.finish_reasons[0] for each in last.values()} == {trtllm.FinishReason.CANCELLED}
    executor.cancel_request(long)  # it is done: nothing happens
    assert executor.await_responses(timedelta(milliseconds=20)) == []
    (response,) = executor.await_responses(long, PATIENCE)
    assert response.has_error()
    assert response.error_msg == f"ReqId {long} has already been processed and was terminated."
    with pytest.raises(RuntimeError, match="Cannot get the result"):
        response.result  # noqa: B018
    assert [call["id"] for call in stand_in.calls("cancel_request")][-3:] == [long, waits, long]


def test_a_request_may_take_so_long(trtllm: Any, executor: Any) -> None:
    request = trtllm.Request([1], 100, streaming=True, allotted_time_ms=timedelta(milliseconds=10))
    assert finish(executor, request)[0][-1].finish_reasons == [trtllm.FinishReason.TIMED_OUT]


def test_the_queue_has_an_end(trtllm: Any, engine: Path, stand_in: StandIn) -> None:
    config = trtllm.ExecutorConfig(max_queue_size=3)
    executor = trtllm.Executor(engine, trtllm.ModelType.DECODER_ONLY, config)
    stand_in.switch("hang")
    try:
        executor.enqueue_request(trtllm.Request([1], 5))
        while executor._rank.loop.waiting():
            time.sleep(0.001)
        executor.enqueue_requests([trtllm.Request([1], 5)] * 3)
        with pytest.raises(RuntimeError, match="Maximum queue size of 3 has been reached, please try again later"):
            executor.enqueue_request(trtllm.Request([1], 5))
        assert executor.await_responses(timedelta(milliseconds=50)) == []  # it hangs
    finally:
        stand_in.switch("hang", False)
    executor.shutdown()


def test_what_is_wrong_with_a_request(trtllm: Any, executor: Any, stand_in: StandIn) -> None:
    for values in ({"top_p": 0.0}, {"temperature": -1.0}, {"repetition_penalty": 0.0}):
        with pytest.raises(RuntimeError, match="Assertion failed"):
            trtllm.SamplingConfig(**values)
    for arguments in (([], 5), ([1], 0)):
        with pytest.raises(RuntimeError, match="Assertion failed"):
            trtllm.Request(*arguments)
    (cut,) = finish(executor, trtllm.Request([1] * 120, 100, streaming=True))
    assert len(tokens(cut)) == 8  # what max_seq_len leaves
    for request in (trtllm.Request([1] * 128, 5), trtllm.Request([1], 5, end_id=VOCAB)):
        (response,) = executor.await_responses(executor.enqueue_request(request), PATIENCE)
        assert response.error_msg.startswith("Encountered an error when fetching new request: ")
    stand_in.switch("fail")
    running = executor.enqueue_request(trtllm.Request([1], 100))
    (response,) = executor.await_responses(running, PATIENCE)
    assert "Encountered an error in forwardAsync function" in response.error_msg


def test_statistics_are_of_iterations_and_are_given_once(trtllm: Any, executor: Any) -> None:
    prompt = list(range(70))
    output = trtllm.OutputConfig(return_perf_metrics=True)
    cold, again, salted = (
        finish(executor, trtllm.Request(prompt, 3, streaming=True, output_config=output, cache_salt_id=salt))[0][-1]
        for salt in (None, None, 8)
    )
    stats = executor.get_latest_iteration_stats()
    assert executor.get_latest_iteration_stats() == []
    assert [each.iter for each in stats] == list(range(1, len(stats) + 1))
    context = [each.inflight_batching_stats.num_ctx_tokens for each in stats]
    assert context[:5] == [16, 16, 16, 16, 6]  # in chunks of max_num_tokens
    assert sum(context) == 70 + (70 - 64) + 70
    assert [each.num_completed_requests for each in stats].count(1) == 3
    assert stats[-1].num_active_requests == stats[-1].kv_cache_stats.used_num_blocks == 0
    reused = [each.request_perf_metrics.kv_cache_metrics.num_reused_blocks for each in (cold, again, salted)]
    assert reused == [0, 2, 0]
    assert json.loads(stats[-1].to_json_str())["iter"] == len(stats)


def test_shutting_down_finishes_what_is_there(trtllm: Any, engine: Path) -> None:
    executor = trtllm.Executor(engine, trtllm.ModelType.DECODER_ONLY, trtllm.ExecutorConfig())
    executor.enqueue_requests([trtllm.Request([i], 5) for i in range(6)])
    ready = executor._rank.loop.ready
    executor.shutdown()
    assert ready(None) == 6
    assert not executor.can_enqueue_requests()
    executor.shutdown()
    for call in (executor.get_latest_iteration_stats, lambda: executor.await_responses(PATIENCE)):
        with pytest.raises(RuntimeError, match="Shutdown called"):
            call()


def test_building(tensorrt_llm: Any, checkpoint: Path, tmp_path: Path) -> None:
    models, quantization = sys.modules["tensorrt_llm.models"], sys.modules["tensorrt_llm.quantization"]
    algorithm: Any = quantization.QuantAlgo  # type: ignore[attr-defined]
    quant = sys.modules["tensorrt_llm.models.modeling_utils"].QuantConfig  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="world_size must equal"):
        tensorrt_llm.Mapping(world_size=2, rank=0, tp_size=1)
    with pytest.raises(AssertionError, match="version of ChatGLM"):
        models.ChatGLMForCausalLM.from_hugging_face(str(checkpoint))  # type: ignore[attr-defined]
    qwen: Any = models.QWenForCausalLM  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="does not require calibration"):
        qwen.quantize(str(checkpoint), str(tmp_path), quant_config=quant(quant_algo=algorithm.W8A16))
    calibrated, engine = tmp_path / "calibrated", tmp_path / "engine"
    mapping = tensorrt_llm.Mapping(world_size=2, rank=0, tp_size=2)
    qwen.quantize(str(checkpoint), str(calibrated), mapping=mapping, quant_config=quant(quant_algo=algorithm.FP8))
    for rank in range(2):
        config = tensorrt_llm.BuildConfig(max_seq_len=64, output_timing_cache=str(tmp_path / "timing.cache"))
        tensorrt_llm.build(qwen.from_checkpoint(str(calibrated), rank=rank), config).save(str(engine))
    assert sorted(each.name for each in engine.iterdir()) == ["config.json", "rank0.engine", "rank1.engine"]
    assert (tmp_path / "timing.cache").exists()
    made = json.loads((engine / "config.json").read_text())
    assert made["version"] == "1.2.1"
    assert made["pretrained_config"]["mapping"]["tp_size"] == 2
    assert made["pretrained_config"]["quantization"]["quant_algo"] == "FP8"
    assert made["build_config"]["max_seq_len"] == 64
    assert made["build_config"]["plugin_config"]["tokens_per_block"] == 32


PROGRAM = """
import sys, torch, tensorrt_llm
from tensorrt_llm.models import QWenForCausalLM
from tensorrt_llm.models.modeling_utils import QuantConfig
from tensorrt_llm.quantization import QuantAlgo
print(torch.cuda.is_available(), torch.cuda.get_device_properties(0).name, torch.cuda.mem_get_info(1))
model = QWenForCausalLM.from_hugging_face(sys.argv[1], quant_config=QuantConfig(quant_algo=QuantAlgo.W8A16))
try:
    tensorrt_llm.build(model, tensorrt_llm.BuildConfig(output_timing_cache=None))
except RuntimeError as e:
    print(type(e).__name__, e)
"""


def test_a_machine_with_gpus(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("class cuda: pass\nclass version: pass\n")  # the real one takes its time
    stand_in = StandIn(tmp_path / "s", device_name="NVIDIA B200", sm=[10, 0], free_memory=5, total_memory=9)
    environment = {**os.environ, **stand_in.environment()}
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "True NVIDIA B200 (5, 9)",
        "RuntimeError INT8/INT4 quantization is not supported on SM>=100.",
    ], done.stderr


def test_a_version_without_engines_has_no_builder(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path / "s", version="1.3.0", engines=False)
    program = "import tensorrt_llm; print(tensorrt_llm.__version__, flush=True); import tensorrt_llm.builder"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **stand_in.environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "1.3.0\n"
    assert "No module named 'tensorrt_llm.builder'" in done.stderr


def on_two_ranks(stand_in: StandIn, engine: Path) -> subprocess.CompletedProcess[str]:
    command = [find_mpirun(), "-n", "2", "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    command += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command += [sys.executable, "-m", "tests.tensorrt_llm.two_ranks", str(engine)]
    environment = {**rank_environment(), **stand_in.environment()}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def two_part_engine(tensorrt_llm: ModuleType, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tensorrt_llm, checkpoint, tmp_path_factory.mktemp("engine2"), tp_size=2)


def test_two_ranks(two_part_engine: Path, tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path / "s")
    done = on_two_ranks(stand_in, two_part_engine)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0: LENGTH LENGTH LENGTH",
        "0: leads: True",
        "1: With LEADER communication mode, only leader rank is expected to call cancelRequest",
        "1: With LEADER communication mode, only leader rank is expected to call getLatestIterationStats",
        "1: leads: False",
        "1: let go after more than 0.3 s",
    ]
    assert [call["call"] for call in stand_in.calls(rank=1)] == ["Executor", "shutdown"]


def test_a_rank_too_few_is_an_assertion(trtllm: Any, two_part_engine: Path) -> None:
    with pytest.raises(RuntimeError, match=r"MPI worldSize is expected to be equal to tp\*pp\*cp"):
        trtllm.Executor(two_part_engine, trtllm.ModelType.DECODER_ONLY, trtllm.ExecutorConfig())
