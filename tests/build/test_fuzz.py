"""Whatever is in a checkpoint's files, a build ends soon: with an engine, or with one sentence and an exit code.

The mutations run in this process, many of them. What would cost memory or time runs as a user would run it, in a
process with limits.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.lora import merge
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig
from llmserve.errors import LlmserveError
from tests.build.mutation import mutated
from tests.build.test_lora import adapter
from tests.checkpoint.int4_files import quantise_folder
from tests.checkpoint.torch_files import save_bin, tensor, with_pickle
from tests.tiny import edit_config, tiny_checkpoint

MEMORY = 6 << 30
"""Of address space, of which torch alone takes a third."""

SECONDS = 60

fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint in each form, and an adapter."""
    place = tmp_path_factory.mktemp("valid")
    safe = tiny_checkpoint(place / "safetensors").folder
    (safe / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "temperature": 0.5}))
    shutil.copytree(safe, place / "bin")
    save_bin(load_file(safe / "model.safetensors"), place / "bin" / "pytorch_model.bin")
    (place / "bin" / "model.safetensors").unlink()
    shutil.copytree(safe, place / "sharded")
    (place / "sharded" / "model.safetensors").rename(place / "sharded" / "a.safetensors")
    index = dict.fromkeys(load_file(safe / "model.safetensors"), "a.safetensors")
    (place / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    quantise_folder(safe, place / "gptq", place / "gptq-plain", "gptq", 32)
    quantise_folder(safe, place / "awq", place / "awq-plain", "awq", 32)
    adapter(place / "adapter", safe)
    return place


def check(folder: Path, target: Path, lora: Path | None = None) -> None:
    """Builds. Only a sentence may be raised, and then nothing may be left."""
    before = {path.name for path in folder.parent.iterdir()}
    try:
        checkpoint = Checkpoint.open(folder)
        build_engine(checkpoint if lora is None else merge(checkpoint, lora), target, BuildConfig())
        shutil.rmtree(target)
    except LlmserveError as e:
        said = str(e)
    else:
        said = "an engine."
    assert re.fullmatch(r"[^\n]{1,1500}\.", said)
    assert {path.name for path in folder.parent.iterdir()} == before


def copy(valid: Path, name: str, tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    return Path(shutil.copytree(valid / name, tmp_path / name))


@pytest.mark.parametrize(
    "form, name",
    [
        ("safetensors", "config.json"),
        ("safetensors", "generation_config.json"),
        ("sharded", "model.safetensors.index.json"),
        ("gptq", "config.json"),
        ("awq", "config.json"),
        ("adapter", "adapter_config.json"),
    ],
)
@given(data=st.data())
@fuzz
def test_json_of_which_parts_are_others(valid: Path, tmp_path: Path, form: str, name: str, data: st.DataObject) -> None:
    folder = copy(valid, form, tmp_path)
    config = json.loads((folder / name).read_text())
    if form in ("gptq", "awq"):
        config["quantization_config"] = mutated(data, config["quantization_config"])
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            config = mutated(data, config)
    (folder / name).write_text(json.dumps(config))
    if form == "adapter":
        check(copy(valid, "safetensors", tmp_path), tmp_path / "engine", folder)
    else:
        check(folder, tmp_path / "engine")


@pytest.mark.parametrize(
    "form, name",
    [
        ("safetensors", "config.json"),
        ("safetensors", "model.safetensors"),
        ("sharded", "model.safetensors.index.json"),
        ("bin", "pytorch_model.bin"),
        ("gptq", "model.safetensors"),
        ("awq", "model.safetensors"),
        ("adapter", "adapter_model.safetensors"),
    ],
)
@given(data=st.data())
@fuzz
def test_files_of_which_bytes_are_others_or_missing(
    valid: Path, tmp_path: Path, form: str, name: str, data: st.DataObject
) -> None:
    folder = copy(valid, form, tmp_path)
    raw = bytearray((folder / name).read_bytes())
    begin = data.draw(st.sampled_from([0, 0, max(0, len(raw) - 4000)]))  # where headers and lists of members are
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(begin, min(len(raw), begin + 4000) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    (folder / name).write_bytes(raw)
    if form == "adapter":
        check(copy(valid, "safetensors", tmp_path), tmp_path / "engine", folder)
    else:
        check(folder, tmp_path / "engine")


# --- what would cost memory or time ----------------------------------------------------------------------------------


def run_limited(folder: Path, *arguments: str) -> str:
    """`llmserve build` with bounded memory and time → its sentence."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); "
    program = limit + "from llmserve.cli import main; main()"
    command = [sys.executable, "-c", program, "build", str(folder), "-o", str(folder.parent / "engine"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert re.fullmatch(r"llmserve: [^\n]{1,1500}\.", lines[0])
    assert not (folder.parent / "engine").exists()
    return lines[0]


def deep(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": ' * 200_000 + "1" + "}" * 200_000)


def huge(folder: Path) -> None:
    with open(folder / "config.json", "wb") as file:
        file.truncate(1 << 40)


def numeric(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": ' + "9" * 1_000_000 + "}")


def changed(**config: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **config)


def mixture(**config: Any) -> Callable[[Path], None]:
    experts = {"architectures": ["Qwen3MoeForCausalLM"], "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    return changed(without=("layer_types",), **experts, **config)


def bomb(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor("0", 2**28, (2**28,), (1,)))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 24))
    (folder / "model.safetensors").unlink()


def hostile(folder: Path) -> None:
    with_pickle(folder / "pytorch_model.bin", b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch hacked\x85R.")
    (folder / "model.safetensors").unlink()


def expanded(folder: Path) -> None:
    """A tensor of 10^15 numbers that are all the same one in the file."""
    with_pickle(folder / "pytorch_model.bin", tensor("0", 1, (10**9, 10**6), (0, 0)), _0=bytes(4))
    (folder / "model.safetensors").unlink()


def wide_header(folder: Path) -> None:
    """A safetensors file, of holes, whose header says that it is 4 GiB long."""
    with open(folder / "model.safetensors", "wb") as file:
        file.write((2**32).to_bytes(8, "little"))
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (changed(num_attention_heads=0), "num_attention_heads=0"),
        (changed(num_hidden_layers=10**9), "num_hidden_layers=1000000000"),
        (changed(num_hidden_layers=10_000), "config.json implies 10000 layers, but the checkpoint holds 21 tensors"),
        (mixture(num_hidden_layers=10_000, num_experts=4096), "implies 10000 layers and 40960000 experts, but"),
        (changed(vocab_size=2**31 - 1), "but config.json implies [2147483647, 64]"),
        (changed(hidden_size=10**30), "hidden_size=1000000000000000000000000000000"),
        (changed(intermediate_size=2**31 - 1), "but config.json implies"),
        (changed(max_position_embeddings=10**12), "max_position_embeddings=1000000000000"),
        (changed(architectures=["x" * 1_000_000]), "config.json names the architecture"),
        (changed(layer_types=["full_attention"] * 100_000), "layer_types"),
        (changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 2**40}), "holds no qweight"),
        (deep, "config.json is not valid JSON"),
        (huge, "config.json has 1099511627776 bytes"),
        (numeric, "config.json is not valid JSON"),
        (bomb, "is compressed or encrypted"),
        (hostile, "Python would have to run 'posix.system'"),
        (expanded, "as a view with strides [0, 0]"),
        (wide_header, "its header would be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_absurd_checkpoints_cost_little(
    valid: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    folder = copy(valid, "safetensors", tmp_path)
    damage(folder)
    assert sentence in run_limited(folder)
    assert not list(tmp_path.rglob("hacked"))
