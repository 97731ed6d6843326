"""llama.cpp as a peer: built from the source distribution of llama-cpp-python, which carries it; and its GGUF files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from cpu_bench.workplace import PrepareError, Workplace

TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize")
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
QUANTIZE: dict[str, tuple[list[str], str]] = {
    "Q8_0": ([], "Q8_0"),
    "Q4_0": (["--output-tensor-type", "q8_0", "--token-embedding-type", "q8_0"], "Q4_0"),
    "Q4_0-pure": (["--pure"], "Q4_0"),
}
"""Flags and type of llama-quantize. Where head and table are tied, the table's type is the head's."""


class LlamaCpp:
    """Paths of a built llama.cpp."""

    def __init__(self, source: Path, version: str) -> None:
        self.source = source
        self.version = version

    def tool(self, name: str) -> Path:
        return self.source / "build" / "bin" / name


def prepare(place: Workplace) -> LlamaCpp:
    programs = place.venv("venv-llamacpp", ["cmake", "ninja"])
    package = place.make(
        place.folder / "llama-cpp-python", "llama.cpp's source", lambda path: _download(place, programs, path)
    )
    (root,) = package.glob("llama_cpp_python-*/")
    llama = LlamaCpp(root / "vendor" / "llama.cpp", "llama-cpp-python " + root.name.removeprefix("llama_cpp_python-"))
    if not all(llama.tool(name).exists() for name in TOOLS):
        place.say("preparing llama.cpp: compiling for this machine (minutes)")
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        place.run([programs / "cmake", "-B", "build", "-G", "Ninja", *CMAKE_FLAGS], environment, llama.source)
        place.run([programs / "ninja", "-C", "build", *TOOLS], environment, llama.source)
    return llama


def _download(place: Workplace, programs: Path, folder: Path) -> None:
    folder.mkdir()
    pip = [programs / "python", "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    place.run([*pip, "-d", folder, "llama-cpp-python"])
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise PrepareError("pip found no source distribution of llama-cpp-python")
    shutil.unpack_archive(archives[0], folder)
    archives[0].unlink()


def gguf(place: Workplace, llama: LlamaCpp, shape: str, kind: str, checkpoint: Path) -> Path:
    """`kind`: BF16 or a key of QUANTIZE."""
    full = place.model(shape, "BF16.gguf")
    place.make(full, f"{shape}: BF16.gguf", lambda path: _convert(place, llama, checkpoint, path))
    if kind == "BF16":
        return full
    flags, type_name = QUANTIZE[kind]
    quantize = [llama.tool("llama-quantize"), *flags, full]
    target = place.model(shape, f"{kind}.gguf")
    return place.make(target, f"{shape}: {kind}.gguf", lambda path: place.run([*quantize, path, type_name]))


def _convert(place: Workplace, llama: LlamaCpp, checkpoint: Path, target: Path) -> None:
    library = str(llama.source / "gguf-py")
    environment = place.environment()
    environment["PYTHONPATH"] += os.pathsep + library
    place.run([sys.executable, "-m", "cpu_bench.gguf_file", checkpoint, target], environment)
