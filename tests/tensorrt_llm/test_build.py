"""`llmserve build --backend tensorrt-llm` on the stand-in: what TensorRT-LLM is called with, and what comes of it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.source import Checkpoint
from llmserve.cli import DEMO
from llmserve.config import TensorRTLLMBuildConfig
from llmserve.errors import BuildError, ConfigError, EngineDirError, LlmserveError
from llmserve.inspect import print_engine
from llmserve.tensorrt_llm import build as build_module
from llmserve.tensorrt_llm import rank_build
from llmserve.tensorrt_llm.architectures import architecture_of
from llmserve.tensorrt_llm.build import build_engine
from llmserve.tensorrt_llm.device import Gpu
from tests.checkpoint.int4_files import quantise_folder
from tests.tensorrt_llm.conftest import Built
from tests.tensorrt_llm.standin import StandIn
from tests.tensorrt_llm.standin.in_process import installed

GPU = Gpu("NVIDIA H200", 90, "GPU-0", 1, 1)

Build = Callable[..., tuple[EngineDir, StandIn]]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """build(checkpoint, gpu=…, **config) → the engine and the stand-in; its steps run in this process."""

    def make(
        checkpoint: Path = DEMO, gpu: Gpu = GPU, broken: dict[str, Any] | None = None, **config: Any
    ) -> tuple[EngineDir, StandIn]:
        monkeypatch.setattr(build_module, "run_apart", lambda options, work: rank_build.run(options))
        monkeypatch.setattr(rank_build, "use_gpu", lambda index: gpu)
        stand_in, target = StandIn(tmp_path / "standin", **(broken or {})), tmp_path / "engine"
        with installed(stand_in):
            build_engine(Checkpoint.open(checkpoint), target, TensorRTLLMBuildConfig(**config), say=print)
        return EngineDir.open(target), stand_in

    yield make
    assert not list(tmp_path.glob(".*")), "a build leaves nothing beside its target"


def like_demo(folder: Path, **changes: Any) -> Path:
    """The demo's checkpoint with another config.json."""
    shutil.copytree(DEMO, folder)
    config = json.loads((DEMO / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_command_builds_all_ranks(built: Built) -> None:
    engine = EngineDir.open(built.path)
    engine.verify()
    names = {"tensorrt_llm/config.json", "tensorrt_llm/rank0.engine", "tensorrt_llm/rank1.engine", "tokenizer.json"}
    assert names < set(engine.manifest.files)
    assert engine.manifest.executor == "tensorrt-llm"
    assert (engine.manifest.quant, engine.manifest.head_quant, engine.manifest.tp_size) == ("int8", "none", 2)
    facts = engine.manifest.tensorrt_llm
    assert facts is not None
    assert (facts.version, facts.gpu, facts.sm) == ("1.2.1", "NVIDIA H200", 90)
    assert (facts.max_batch_size, facts.max_seq_len, facts.max_input_len, facts.max_num_tokens) == (4, 1000, 999, 64)
    assert facts.paged_context
    assert "2 × NVIDIA H200" in built.told


def test_each_rank_is_made_by_the_class_of_its_architecture(built: Built) -> None:
    calls = built.stand_in.calls("QWenForCausalLM.from_hugging_face")
    assert [(call["rank"], call["tp_size"], call["quant_algo"], call["dtype"]) for call in calls] == [
        (0, 2, "W8A16", "bfloat16"),
        (1, 2, "W8A16", "bfloat16"),
    ]
    assert not any(call["trust_remote_code"] for call in calls)
    [first, second] = (call["limits"] for call in built.stand_in.calls("build"))
    assert first == second
    assert Path(first["output_timing_cache"]).is_absolute()
    assert not Path(first["output_timing_cache"]).exists()


@pytest.mark.parametrize("quant, algo", [("none", None), ("int4", "W4A16")])
def test_weights_are_quantised_as_asked(build: Build, quant: str, algo: str | None) -> None:
    engine, stand_in = build(quant=quant)
    [call] = stand_in.calls("QWenForCausalLM.from_hugging_face")
    assert call["quant_algo"] == algo
    plugins = json.loads((engine.path / "tensorrt_llm/config.json").read_text())["build_config"]["plugin_config"]
    assert bool(plugins["gemm_plugin"]) == (quant == "none")
    assert plugins["use_paged_context_fmha"]


@pytest.mark.parametrize("quant, algo", [("int4_awq", "W4A16_AWQ"), ("int8_sq", "W8A8_SQ_PER_CHANNEL"), ("fp8", "FP8")])
def test_what_needs_calibration_is_calibrated_once_for_all_ranks(build: Build, quant: str, algo: str) -> None:
    engine, stand_in = build(quant=quant, tp_size=2)
    assert [call["quant_algo"] for call in stand_in.calls("QWenForCausalLM.quantize")] == [algo]
    assert len(stand_in.calls("build")) == 2
    assert engine.manifest.quant == quant
    assert not any("calibrated" in name for name in engine.manifest.files)


def test_a_timing_cache_is_kept_where_it_is_wanted(build: Build, tmp_path: Path) -> None:
    build(timing_cache=str(tmp_path / "cache"), tp_size=2)
    assert (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "config, version",
    [
        ({"padded_vocab_size": 65024}, "chatglm2"),
        ({"padded_vocab_size": 65024, "rope_ratio": 50}, "chatglm3"),
        ({"padded_vocab_size": 151552, "rope_ratio": 500}, "glm4"),
    ],
)
def test_chatglm_is_told_its_version(config: dict[str, Any], version: str) -> None:
    found = architecture_of({"architectures": ["ChatGLMModel"], **config}, trust_remote_code=True)
    assert (found.model_class, found.options) == ("ChatGLMForCausalLM", {"chatglm_version": version})


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"architectures": ["GlmForCausalLM"]}, "does not build"),
        ({"architectures": ["ChatGLMModel"]}, "--trust-remote-code"),
        ({"architectures": ["QWenLMHeadModel"]}, "--trust-remote-code"),
        ({"architectures": None}, "None"),
    ],
)
def test_what_it_cannot_take_is_a_sentence(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BuildError, match=sentence):
        architecture_of(config, trust_remote_code=False)


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"max_seq_len": 1025}, "1025 is more than the 1024 positions"),
        ({"max_seq_len": 100, "max_input_len": 100}, "no room for an answer"),
        ({"quant": "int8", "gpu": Gpu("NVIDIA B200", 100, "", 1, 1)}, "has no int8 for NVIDIA B200"),
        ({"quant": "fp8", "gpu": Gpu("NVIDIA A100", 80, "", 1, 1)}, "fp8 needs compute capability 8.9"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Build, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BuildError, match=sentence):
        build(**config)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_checkpoint_that_is_int4_already_is_read_as_it_is(build: Build, tmp_path: Path, method: str) -> None:
    quantise_folder(DEMO, tmp_path / method, tmp_path / "plain", method, 64)
    _, stand_in = build(tmp_path / method)
    [call] = stand_in.calls("QWenForCausalLM.from_hugging_face")
    assert call["quant_algo"] == "W4A16_GPTQ"
    assert call["use_autoawq"] == (method == "awq")


def test_gptq_ordered_by_activations_is_refused(build: Build, tmp_path: Path) -> None:
    folder = like_demo(tmp_path / "gptq")
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128, "desc_act": True}))
    with pytest.raises(LlmserveError):  # the native reader already finds that it holds no int4
        build(folder)


@pytest.mark.parametrize("version, told", [("1.2.0", "works with 1.2.1 only"), ("1.2.1+cu130", None)])
def test_other_versions_are_named(tmp_path: Path, version: str, told: str | None) -> None:
    from llmserve.tensorrt_llm import library

    with installed(StandIn(tmp_path / "standin", version=version)):
        if told is None:
            assert library.load() == version
        else:
            with pytest.raises(ConfigError, match=f"tensorrt_llm {version} is installed.*{told}"):
                library.load()


def test_a_version_without_engines_is_named_as_such(tmp_path: Path) -> None:
    from llmserve.tensorrt_llm import library

    stand_in = StandIn(tmp_path / "standin", version="1.4.0", engines=False)
    with installed(stand_in), pytest.raises(ConfigError, match=r"tensorrt_llm 1\.4\.0 has no engines any more"):
        library.load()


def test_without_tensorrt_llm_it_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not installed.*pip install tensorrt_llm==1\.2\.1"):
        build_engine(Checkpoint.open(DEMO), tmp_path / "engine", TensorRTLLMBuildConfig(), say=print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "failure, sentence",
    [
        ("OutOfMemory", "ran out of memory while rank 1 was built .*stop what else uses it"),
        (
            "Could not find any implementation\n[stack]",
            "could not build rank 1 .RuntimeError: Could not find any imple",
        ),
    ],
)
def test_a_build_that_fails_is_a_sentence_and_leaves_nothing(
    build: Build, tmp_path: Path, failure: str, sentence: str
) -> None:
    with pytest.raises(BuildError, match=sentence) as error:
        build(tp_size=2, broken={"ranks": {1: {"build_fails": failure}}})
    assert "stack" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"standin"}


def test_a_build_that_is_killed_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in StandIn(tmp_path / "standin", build_is_killed=True).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build_module.library, "find", lambda: None)
    with pytest.raises(BuildError, match="building rank 0 ended by SIGKILL, by hand or by the system for want of mem"):
        build_engine(Checkpoint.open(DEMO), tmp_path / "engine", TensorRTLLMBuildConfig(), say=print)
    assert {path.name for path in tmp_path.iterdir()} == {"standin"}


def test_an_engine_can_only_be_served(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineDirError, match="which can only be served"):
        print_engine(built.path, tensors=True, as_json=False)
    assert "TensorRT-LLM 1.2.1" in capsys.readouterr().out


def test_how_a_step_ended() -> None:
    assert build_module._how(3) == "with exit code 3"
    assert build_module._how(-signal.SIGSEGV) == "by SIGSEGV"
