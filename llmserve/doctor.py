"""`llmserve doctor`: what of llmserve works on this machine, what was chosen, and why. Loads no weights."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from llmserve import __version__
from llmserve.engine.launch import find_mpirun
from llmserve.errors import LlmserveError
from llmserve.ops.cpu import instruction_sets
from llmserve.runtime.kv_cache import available_memory

Verdict = Literal["ok", "note", "problem"]

FLAGS = {
    "avx512_bf16": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    "avx2": ("avx2", "fma", "f16c"),
    "portable": (),
}
"""Instruction set of the kernels → what /proc/cpuinfo has to list for it. Best first, as the kernels try them."""


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    verdict: Verdict
    text: str


def print_findings(*, as_json: bool) -> int:
    """The exit code: 1 where there is a problem."""
    findings = examine()
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=2, ensure_ascii=False))
    else:
        table = Table(title=f"llmserve {__version__}", show_header=False, title_justify="left")
        for finding in findings:
            table.add_row(finding.what, finding.verdict, finding.text)
        Console(markup=False, emoji=False).print(table)
    return int(any(f.verdict == "problem" for f in findings))


def examine() -> list[Finding]:
    return [_python(), _processor(), _memory(), *_kernels(), _mpi(), _gpu()]


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()}, torch {metadata.version('torch')}")


def _processor() -> Finding:
    fields = _cpuinfo()
    allowed = len(os.sched_getaffinity(0))
    text = f"{fields.get('model name', platform.machine())}; {allowed} of {os.cpu_count()} cores may be used"
    quota = _quota()
    if quota is not None and quota < allowed:
        advice = f"its container is granted the time of {quota:g}: start with --threads {max(1, int(quota))}"
        return Finding("processor", "note", f"{text}, but {advice}.")
    return Finding("processor", "ok", text)


def _memory() -> Finding:
    return Finding("memory", "ok", f"{available_memory() / 2**30:.1f} GiB free")


def _kernels() -> list[Finding]:
    try:
        found = instruction_sets()
    except ImportError as e:
        return [
            Finding(
                "CPU kernels", "problem",
                f"not installed ({e}): engines run on the slow reference operations. Install a C++17 compiler (Debian: "
                "g++) and then llmserve again.",
            )
        ]  # fmt: skip
    best = found[0]
    runnable = {isa.name for isa in found}
    flags = set(_cpuinfo().get("flags", "").split())
    ways = [f"activations {'int8' if best.fast_s8 else 'float32'} for quantised weights"]
    ways.append(f"{'bfloat16' if best.fast_bf16 else 'float32'} for bfloat16 weights")
    out = [Finding("CPU kernels", "ok", f"{best.name}: {', '.join(ways)}")]
    for name, needed in FLAGS.items():
        lacking = [flag for flag in needed if flag not in flags]
        if name == best.name:
            why = "chosen: the best that this processor runs"
        elif name in runnable:
            why = f"runs here too (--kernels {name})"
        else:
            why = f"this processor lacks {', '.join(lacking) or 'it'}"
        out.append(Finding(f"  {name}", "ok" if name in runnable else "note", why))
    return out


def _mpi() -> Finding:
    try:
        return Finding("MPI", "ok", f"{find_mpirun()}, mpi4py {metadata.version('mpi4py')}")
    except LlmserveError as e:
        return Finding("MPI", "problem", f"engines of more than one rank cannot run: {e}")


def _gpu() -> Finding:
    from torch import cuda  # slow to import, and only wanted here

    if not cuda.is_available():
        return Finding("GPU", "note", "none that torch can use; engines built for --device cuda cannot run here")
    names = sorted({cuda.get_device_name(i) for i in range(cuda.device_count())})
    return Finding("GPU", "ok", f"{cuda.device_count()} × {', '.join(names)}")


def _cpuinfo() -> dict[str, str]:
    """The first processor's."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _quota() -> float | None:
    """Processors' worth of time that the cgroup grants; None: no limit."""
    path = Path("/sys/fs/cgroup/cpu.max")
    if not path.exists():
        return None
    quota, period = path.read_text().split()
    return None if quota == "max" else int(quota) / int(period)
