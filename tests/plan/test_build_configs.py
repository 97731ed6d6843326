"""build_configs/: every variant can be cut, and fits the GPUs that it says, by the real models' config.json."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from llmserve.build_file import BuildFile, read_build_file, read_chosen, which_checkpoint
from llmserve.cli_options import BuildOptions, MachineOptions, PlannedOptions
from llmserve.config import BuildConfig
from llmserve.errors import ConfigError
from llmserve.plan.command import LIMITS, machines_of, make_wish
from llmserve.plan.plan import make_plan
from tests.plan.ask import real, real_configs

FOLDER = Path(__file__).parents[2] / "build_configs"
UTILIZATION = MachineOptions().memory_utilization


@cache
def files() -> dict[str, BuildFile]:
    return {path.stem: read_build_file(path) for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "demo"}


VARIANTS = [(model, name) for model, file in files().items() for name in file.variants]


def test_there_is_one_for_each_model_and_each_way_to_store_it() -> None:
    assert set(files()) == set(real_configs())
    for model, file in files().items():
        assert real_configs()[model]["source"] == f"https://huggingface.co/{file.checkpoint}/blob/main/config.json"
        ways = {(v.settings.get("backend", "native"), v.settings.get("quant", "none")) for v in file.variants.values()}
        assert ways == {
            (backend, quant) for backend in ("native", "tensorrt-llm") for quant in ("none", "int8", "int4")
        }
        assert {v.settings["device"] for v in file.variants.values() if "device" in v.settings} >= {"cpu", "cuda"}


@pytest.mark.parametrize("model, name", VARIANTS, ids=lambda value: str(value))
def test_it_fits_where_it_says(model: str, name: str) -> None:
    variant = files()[model].variants[name]
    wish = make_wish(variant.settings, BuildOptions(), PlannedOptions(), None, UTILIZATION)
    device = "cuda" if wish.backend == "tensorrt-llm" else wish.build.device
    machines = []
    for gpu in variant.fits:
        kind, _, memory = gpu.partition(" ")
        machines += machines_of(MachineOptions(gpu=kind, memory=memory or None), device, "it")
    for found, tokens in zip(make_plan(real(model), wish, machines).fits, variant.fits.values(), strict=True):
        assert found.fits, f"{found.machine.name}: {found.verdict}"
        assert found.max_model_len >= tokens, f"{found.machine.name} holds sequences of {found.max_model_len} tokens"
    assert variant.fits, "nothing is promised"


@pytest.mark.parametrize("model, name", VARIANTS, ids=lambda value: str(value))
def test_the_command_line_takes_it(model: str, name: str) -> None:
    settings = read_chosen(FOLDER / f"{model}.yaml", name).settings
    if settings.get("backend", "native") == "native":
        config = BuildOptions().config(settings)
        assert isinstance(config, BuildConfig)
        assert config.dtype != "auto", "the file says what it was planned for"
    else:
        assert settings.keys() <= {"backend", "quant", "tp_size", "dtype", "max_input_len", *LIMITS}
        limits = settings["max_seq_len"], settings["max_input_len"], settings["max_num_tokens"]
        assert 0 < limits[1] < limits[0] <= real(model).model.max_position


def test_the_demos_file_has_no_variants() -> None:
    assert BuildOptions().config(read_chosen(FOLDER / "demo.yaml", None).settings).quant == "int8"
    with pytest.raises(ConfigError, match=r"demo\.yaml has no variant 'int8', it has none\."):
        read_chosen(FOLDER / "demo.yaml", "int8")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("variants: {}", "has variants without names"),
        ("variants: [int8]", "has variants without names"),
        ("variants: {a: 3}", "variant 'a' holds no settings"),
        ("variants: {a: {fits: L4}}", "says fits: 'L4'; write it like"),
        ("variants: {a: {fits: {L4: many}}}", "write it like"),
        ("checkpoint: 3", "says checkpoint: 3"),
        ("variants: {a: {quant: int8}, b: {}}", "has the variants a, b; choose one with --variant"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_chosen(tmp_path / "f.yaml", None)


def test_a_variants_settings_win_over_those_that_all_have(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("dtype: float16\nquant: int8\nvariants: {a: {quant: int4, fits: {L4: 1}}}")
    assert read_chosen(tmp_path / "f.yaml", "a").settings == {"dtype": "float16", "quant": "int4"}


def test_the_checkpoint_may_stand_in_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("checkpoint: Qwen/Qwen3-8B\nquant: int8")
    (tmp_path / "none.yaml").write_text("quant: int8")
    chosen, none = read_chosen(tmp_path / "f.yaml", None), read_chosen(tmp_path / "none.yaml", None)
    assert which_checkpoint(None, chosen) == ("Qwen/Qwen3-8B", None)
    for same in ("Qwen/Qwen3-8B", "models/qwen3-8b/", "other/Qwen3-8B"):
        assert which_checkpoint(same, chosen) == (same, None)
    assert which_checkpoint("x", none) == ("x", None)
    note = f"{tmp_path}/f.yaml is for Qwen/Qwen3-8B, and its settings are used for demo."
    assert which_checkpoint("demo", chosen) == ("demo", note)
    with pytest.raises(ConfigError, match=r"no CHECKPOINT was given; give a folder, .* or `demo`\."):
        which_checkpoint(None, read_chosen(None, None))
    with pytest.raises(ConfigError, match=r"no CHECKPOINT was given, as \S+/none\.yaml names none either; give"):
        which_checkpoint(None, none)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/nofile\.yaml does not exist; give --config a file"):
        read_chosen(tmp_path / "nofile.yaml", None)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory\."):
        read_chosen(tmp_path, None)
