"""Imports go one way (docs/architecture.md). Every import counts: in a function and under TYPE_CHECKING, too."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmserve"

MAY_IMPORT = {
    # what everyone knows
    "errors": "",
    "request": "errors",
    "config": "request errors",
    "logs": "",
    "progress": "",
    # deciding: no tensors
    "scheduler": "request errors",
    # computing: each on those before it
    "comm": "errors",
    "ops": "",
    "quant": "ops errors",
    "layers": "quant ops comm config errors",
    "models": "layers ops config errors",
    "checkpoint": "config errors",
    "checkpoint.text_files": "checkpoint tokenizer config errors",
    "checkpoint.ranks": "checkpoint models layers quant config errors",
    "checkpoint.build": "checkpoint checkpoint.ranks checkpoint.text_files models layers quant tokenizer config errors",
    "runtime": "models layers ops comm checkpoint scheduler config request errors",
    # text
    "tokenizer": "config request errors",
    "grammar": "tokenizer errors",
    # the engine, and how it is started and talked to
    "engine.capabilities": "request errors",
    "engine.messages": "engine.capabilities request",
    "engine.endpoint": "",
    "engine.launch": "config errors",
    "engine.group": "engine.launch config errors",
    "tensorrt_llm.contract": "errors",
    "tensorrt_llm.verify": "tensorrt_llm.contract errors",
    "engine.link": "engine.endpoint engine.messages errors",
    "engine.serve": "engine.link engine.messages request errors",
    "tensorrt_llm": "engine.capabilities engine.launch engine.link engine.messages engine.serve comm models checkpoint "
    "checkpoint.ranks checkpoint.text_files config request errors",
    "engine": "engine.messages engine.endpoint engine.launch engine.link engine.serve tensorrt_llm runtime scheduler "
    "comm checkpoint grammar tokenizer config request errors logs",
    # HTTP
    "server": "grammar tokenizer engine.capabilities engine.messages engine.endpoint engine.launch engine.group "
    "config request errors logs",
    # judging a build
    "check": "runtime models layers ops comm checkpoint checkpoint.build scheduler tokenizer config errors",
    # measuring
    "bench": "engine cli_groups config request errors progress logs",
    # judging before a build
    "plan": "runtime models layers ops checkpoint checkpoint.ranks cli_options config errors",
    # the command line
    "build_file": "errors",
    "cli_groups": "",
    "cli_options": "cli_groups config request errors",
    "inspect": "checkpoint config errors",
    "doctor": "engine.launch runtime ops errors",
    "terminal": "server tokenizer engine.endpoint engine.group config request errors logs",
    "cli": "cli_groups cli_options build_file server terminal bench inspect doctor engine engine.launch check plan "
    "checkpoint checkpoint.build tensorrt_llm tensorrt_llm.verify progress config errors logs",
    "__main__": "cli",
}
"""Part → parts it may import. A part is a module or package of llmserve; `a.b` is not part of `a`."""

BESIDE_THE_STANDARD_LIBRARY = {
    "errors": "",
    "request": "",
    "config": "pydantic",
    "logs": "",
    "scheduler": "",
    "ops": "torch",
    "quant": "torch",
    "layers": "torch",
    "models": "torch pydantic",
    "runtime": "torch",
    "check": "torch",
    "comm": "torch numpy mpi4py",
    "checkpoint": "torch safetensors huggingface_hub blake3",
    "checkpoint.ranks": "",
    "checkpoint.text_files": "",
    "checkpoint.build": "",
    "engine.capabilities": "msgspec",
    "engine.messages": "msgspec",
    "engine.endpoint": "",
    "engine.launch": "",
    "engine.group": "",
    "engine.link": "zmq",
    "engine.serve": "",
    "engine": "torch zmq",
    "tensorrt_llm": "tensorrt_llm torch mpi4py pydantic",
    "tensorrt_llm.contract": "",
    "tensorrt_llm.verify": "",
    "tokenizer": "tokenizers sentencepiece jinja2",
    "grammar": "llguidance",
    "plan": "torch rich",
    "build_file": "yaml",
    "bench": "pydantic rich typer httpx matplotlib",
}
"""Part → other people's packages it may import; of those that are not listed, none is held to anything."""

NEVER_TORCH = (
    "request", "errors", "config", "scheduler", "engine.capabilities", "engine.messages", "engine.endpoint",
    "engine.launch", "engine.link", "engine.serve", "engine.group", "server", "grammar", "tokenizer",
)  # fmt: skip
"""Parts of the processes that format text: loading torch would cost them seconds and hundreds of megabytes."""


def part_of(module: str) -> str:
    """`llmserve.engine.messages` → `engine.messages`, `llmserve.engine.rank` → `engine`."""
    names = module.split(".")[1:]
    longest = ".".join(names[:2])
    return longest if longest in MAY_IMPORT else names[0]


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(file.read_text("utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """The modules that are imported; of `from llmserve import x` that is `llmserve.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used in llmserve"
            yield from [node.module] if node.module != "llmserve" else [f"llmserve.{a.name}" for a in node.names]


def submodules(parts: tuple[str, ...]) -> list[str]:
    return [name for name, _ in modules() if name != "llmserve" and part_of(name) in parts]


@pytest.fixture(scope="module")
def ours() -> set[tuple[str, str]]:
    """(module, module of another part that it imports)."""
    return {
        (module, imported)
        for module, tree in modules()
        for imported in imports(tree)
        if imported.startswith("llmserve.") and imported != "llmserve.__version__" and module != "llmserve"
    }


def test_the_table_has_no_circle() -> None:
    graph = {part: may.split() for part, may in MAY_IMPORT.items()}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(MAY_IMPORT)


def test_every_part_is_in_the_table() -> None:
    assert {part_of(module) for module, _ in modules() if module != "llmserve"} == set(MAY_IMPORT)


def test_imports_go_one_way(ours: set[tuple[str, str]]) -> None:
    wrong = {
        f"{module} imports {imported}"
        for module, imported in ours
        if part_of(imported) not in (part_of(module), *MAY_IMPORT[part_of(module)].split())
    }
    assert not wrong


def test_runtime_knows_the_schedulers_values_and_not_the_scheduler() -> None:
    used = {
        alias.name
        for module, tree in modules()
        if module.startswith("llmserve.runtime")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmserve.scheduler")
        for alias in node.names
    }
    assert used <= {"StepPlan", "Chunk", "Pooled", "Sampled"}


def test_each_part_uses_only_the_packages_it_should() -> None:
    wrong = {
        f"{module} imports {imported}"
        for module, tree in modules()
        if module != "llmserve" and part_of(module) in BESIDE_THE_STANDARD_LIBRARY
        for imported in imports(tree)
        if (top := imported.split(".")[0]) not in sys.stdlib_module_names | {"llmserve", "__future__"}
        and top not in BESIDE_THE_STANDARD_LIBRARY[part_of(module)].split()
    }
    assert not wrong


def test_the_front_never_loads_torch() -> None:
    """Not even through others: a process that imported every module of these parts has no torch."""
    names = submodules(NEVER_TORCH)
    assert "llmserve.server.engine_client" in names
    assert "llmserve.tokenizer.tokenizer" in names
    program = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
