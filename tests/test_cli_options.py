"""Options: declared once, shown whole, and handed on to the configs that they make."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from llmserve import __version__
from llmserve.bench.options import OfflineOptions, ServeOptions, TargetOptions
from llmserve.cli import app
from llmserve.cli_groups import OptionGroup, grouped
from llmserve.cli_options import (
    BackendOptions,
    BuildOptions,
    EngineOptions,
    MachineOptions,
    ModelOptions,
    PlannedOptions,
    ServerOptions,
    WeightsChoice,
    build_config,
)
from llmserve.config import BuildConfig, EngineConfig, ServerConfig, TensorRTLLMBuildConfig, parse_bytes, size_text
from llmserve.errors import ConfigError

ENGINE_FLAGS = {
    "--kv-cache-memory": "2MiB", "--kv-cache-dtype": "int8", "--activations": "float32", "--kernels": "reference",
    "--threads": "3", "--max-num-seqs": "5", "--max-num-batched-tokens": "77", "--max-model-len": "99",
    "--block-size": "32", "--no-prefix-caching": None, "--no-overlap": None, "--no-verify": None,
}  # fmt: skip
ENGINE_CONFIG = EngineConfig(
    kv_cache_memory=2 << 20, kv_cache_dtype="int8", activations="float32", kernels="reference", threads=3,
    max_num_seqs=5, max_num_batched_tokens=77, max_model_len=99, block_size=32, prefix_caching=False, overlap=False,
    verify=False,
)  # fmt: skip
SERVER_FLAGS = {
    "--host": "::1", "--port": "81", "--served-model-name": "m", "--chat-template": "c.jinja", "--max-queue": "0",
    "--shutdown-timeout": "1.5",
}  # fmt: skip
SERVER_CONFIG = ServerConfig(
    host="::1", port=81, served_model_name="m", chat_template=Path("c.jinja"), max_queue=0, shutdown_timeout=1.5
)


def words(flags: dict[str, str | None]) -> list[str]:
    return [word for flag in flags.items() for word in flag if word is not None]


def names(config: type[Any]) -> set[str]:
    return set(config.model_fields)


def test_every_setting_has_an_option_with_its_default() -> None:
    assert {field.name for field in fields(EngineOptions)} == names(EngineConfig)
    assert {field.name for field in fields(ServerOptions)} == names(ServerConfig)
    assert {field.name for field in fields(BuildOptions)} == names(BuildConfig)
    both = {"backend"} | names(BuildConfig) | names(TensorRTLLMBuildConfig)
    assert {field.name for group in (BuildOptions, BackendOptions) for field in fields(group)} == both
    assert EngineOptions().config() == ModelOptions().config() == EngineConfig()
    assert ServerOptions().config() == ServerConfig()
    assert BuildOptions().config({}) == BuildConfig()
    assert build_config({}, BuildOptions(), BackendOptions()) == BuildConfig()
    assert build_config({"backend": "tensorrt-llm"}, BuildOptions(), BackendOptions()) == TensorRTLLMBuildConfig()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, EngineConfig, ServerConfig]]:
    """What `llmserve run` would have run."""
    told: list[tuple[Path, EngineConfig, ServerConfig]] = []

    def run_alone(engine: Path, config: EngineConfig, server: ServerConfig) -> int:
        told.append((engine, config, server))
        return 7

    monkeypatch.setattr("llmserve.server.alone.run_alone", run_alone)
    monkeypatch.setattr("llmserve.engine.launch.launched_by_mpi", lambda: False)
    return told


def test_run_hands_every_option_on(runs: list[tuple[Path, EngineConfig, ServerConfig]]) -> None:
    assert CliRunner().invoke(app, ["run", "e"]).exit_code == 7
    assert CliRunner().invoke(app, ["run", *words(SERVER_FLAGS), "e", *words(ENGINE_FLAGS)]).exit_code == 7
    assert runs == [(Path("e"), EngineConfig(), ServerConfig()), (Path("e"), ENGINE_CONFIG, SERVER_CONFIG)]


def test_bench_hands_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("llmserve.bench.command.bench_engine", lambda *given, **files: told.append((*given, files)))
    flags = words({**ENGINE_FLAGS, "--prompt-lens": "7", "--seed": "4", "--json": "f"})
    assert CliRunner().invoke(app, ["bench", "e", *flags]).exit_code == 0
    [(engine, config, settings, files)] = told
    assert (engine, config) == (Path("e"), ENGINE_CONFIG)
    assert (settings.prompt_lens, settings.new_tokens, settings.seed) == ((7,), 64, 4)
    assert files == {"json_file": Path("f"), "plot": None}


@pytest.mark.parametrize("command", [["generate", "e", "text"], ["chat", "e"]])
def test_the_terminals_commands_hand_theirs_on(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    for name in ("generate_text", "chat_in_terminal"):
        monkeypatch.setattr(f"llmserve.terminal.{name}", lambda *given, **asked: told.append((*given, asked)))
    flags = ["--threads", "3", "--kernels", "avx2", "--seed", "5"]
    assert CliRunner().invoke(app, [*command, *flags]).exit_code == 0
    [(engine, config, _, asked)] = told
    assert (engine, config) == (Path("e"), EngineConfig(threads=3, kernels="avx2"))
    assert (asked["seed"], asked["temperature"]) == (5, 0.0)


def test_build_flags_win_over_the_file() -> None:
    options = BuildOptions(tp_size=2)
    assert options.config({"tp_size": 4, "quant": "int8"}) == BuildConfig(tp_size=2, quant="int8")
    with pytest.raises(ConfigError, match="nonsense"):
        options.config({"nonsense": 1})


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"max_batch_size": 8}, "max_batch_size is no setting of the native backend"),
        ({"backend": "tensorrt-llm", "device": "cpu"}, "device is no setting of the tensorrt-llm backend"),
        ({"backend": "vllm"}, "backend is 'vllm'"),
        ({"quant": "fp8"}, r"^quant of --config 'fp8' cannot be used: input should be 'none', 'int8' or 'int4'\.$"),
        ({"backend": "tensorrt-llm", "nonsense": 1}, "nonsense"),
    ],
)
def test_a_backend_has_settings_of_its_own(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_config(settings, BuildOptions(), BackendOptions())


def test_what_cannot_be_used_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^--max-num-seqs 0 cannot be used: input should be greater than .* 1\.$"):
        EngineOptions(max_num_seqs=0).config()
    with pytest.raises(ConfigError, match=r"^--tp-size 0 cannot be used: "):  # and not what the file said
        BuildOptions(tp_size=0).config({"tp_size": 4})
    with pytest.raises(ConfigError, match=r"^tp_size of --config 0 cannot be used: "):
        BuildOptions(quant=WeightsChoice.int8).config({"tp_size": 0})
    with pytest.raises(ConfigError, match=r"^--input-len \(5, 3\) cannot be used: 5-3 begins above its end\.$"):
        ServeOptions(input_len="5-3").settings("http://localhost", 0)
    with pytest.raises(ConfigError, match=r"^'4 bananas' is not a size"):
        EngineOptions(kv_cache_memory="4 bananas").config()
    for number in ("24", " 1.5 ", "4000000000"):
        with pytest.raises(ConfigError, match=r"has no unit, so it is not a size; write it like 512MiB"):
            EngineOptions(kv_cache_memory=number).config()


@pytest.mark.parametrize("text", ["1kB", "1KiB", "1.5GB", "512MiB", "4GiB", "4095B", "123456789B", "80GB", "2TiB"])
def test_a_size_is_written_as_it_was_typed(text: str) -> None:
    assert size_text(parse_bytes(text)) == text


@pytest.mark.parametrize("size", [1, 1000, 1023, 1024, 1234567, 10**9 + 1, 2**40, 999_999_999_999])
def test_a_size_that_is_written_is_read_as_the_same(size: int) -> None:
    assert parse_bytes(size_text(size)) == size


GROUPS: dict[str, tuple[type[OptionGroup], ...]] = {
    "run": (ServerOptions, EngineOptions),
    "bench": (TargetOptions, OfflineOptions, EngineOptions, ServeOptions),
    "chat": (ModelOptions,),
    "build": (BuildOptions,),
    "plan": (BuildOptions, PlannedOptions, MachineOptions),
}


@pytest.mark.parametrize("command", GROUPS)
def test_help_shows_every_option_whole_on_a_narrow_terminal(command: str) -> None:
    done = CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", done.stdout, re.MULTILINE)
    for group in GROUPS[command]:
        declared = [field.name for field in fields(group) if field.name != "engine"]
        flags = ["--json" if name == "json_file" else "--" + name.replace("_", "-") for name in declared]
        assert [flag for flag in shown if flag in flags] == flags, "all of them, in the order of their declaration"
        assert f"\n{group.SECTION}:\n" in done.stdout
    text = " ".join(done.stdout.split())
    if command == "run":
        assert "--no-prefix-caching Reuse the KV blocks of prompts that begin alike. [default: prefix-caching]" in text
        assert re.search(r"--max-num-seqs \S+ Sequences that run at once; more wait. \[default: 64\]", text)


def test_a_name_in_two_groups_is_a_mistake() -> None:
    @dataclass(frozen=True)
    class One(OptionGroup):
        same: Annotated[int, typer.Option()] = 1

    def command(one: One, same: int = 2) -> None: ...

    command.__annotations__ = {"one": One, "same": int}
    with pytest.raises(ValueError, match="same"):
        grouped(command)


def test_the_version() -> None:
    for command in ("--version", "version"):
        done = CliRunner().invoke(app, [command])
        assert (done.exit_code, done.stdout) == (0, f"{__version__}\n")
