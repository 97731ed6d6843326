"""OpenVINO GenAI as a peer: its own environment, and models exported from a random checkpoint."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cpu_bench.workplace import Workplace

TORCH = "torch==2.13.0"
PACKAGES = ["openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel", "nncf"]
EXPORT = {
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--group-size", "32", "--ratio", "1.0"],
}


class OpenVinoPeer:
    def __init__(self, programs: Path, version: str) -> None:
        self.programs = programs
        self.version = version


def prepare(place: Workplace) -> OpenVinoPeer:
    programs = place.venv("venv-openvino", [TORCH], [TORCH, *PACKAGES])
    if any(programs.parent.glob("lib/python*/site-packages/torchvision")):
        # Somebody's dependency, and of no use here; a build for another torch than ours would fail on import.
        place.run([programs / "python", "-m", "pip", "uninstall", "-q", "-y", "torchvision"])
    ask = "import openvino_genai; print(openvino_genai.__version__)"
    done = subprocess.run([programs / "python", "-c", ask], capture_output=True, text=True)
    return OpenVinoPeer(programs, "openvino-genai " + (done.stdout.strip() or "?"))


def export(place: Workplace, peer: OpenVinoPeer, shape: str, kind: str, checkpoint: Path) -> Path:
    command = [peer.programs / "optimum-cli", "export", "openvino", "-m", checkpoint]
    task = ["--task", "text-generation-with-past", "--disable-convert-tokenizer"]
    environment = {
        **os.environ,
        "PATH": f"{peer.programs}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    return place.make(
        place.model(shape, f"openvino-{kind}"),
        f"{shape}: OpenVINO {kind}",
        lambda path: place.run([*command, *task, *EXPORT[kind], path], environment),
    )
