"""What a test sets and breaks, in the folder that TENSORRT_LLM_STANDIN names: settings.json, and files as switches.

settings.json holds fields of `Settings`; "ranks": {"1": {…}} holds those of one rank. Switches are files that a test
makes while things run: `hang` stops all iterations while it is there, `die-N` has rank N killed, `fail` has the next
iteration throw. `calls-N.jsonl` is what rank N was called.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    version: str = "1.2.1"
    engines: bool = True
    """False: a version after the engines were removed."""
    devices: int = 8
    device_name: str = "NVIDIA H200"
    sm: tuple[int, int] = (9, 0)
    total_memory: int = 150_000_000_000
    free_memory: int = 149_000_000_000
    iteration_seconds: float = 0.001
    ends_after: int | None = None
    """How many tokens of an answer precede its end_id. None: it never comes."""
    kv_blocks: int = 1024
    construct_fails: str = ""
    """What constructing an Executor throws."""
    construct_hangs: bool = False
    build_fails: str = ""
    """What `build` throws; "OutOfMemory" is CUDA's."""
    build_is_killed: bool = False


def rank() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))


def _folder() -> Path | None:
    name = os.environ.get("TENSORRT_LLM_STANDIN")
    return Path(name) if name else None


@functools.cache
def settings(of_rank: int | None = None) -> Settings:
    """Those of this process's rank, or, for a build's child, of the rank it builds. Read once."""
    folder = _folder()
    file = folder / "settings.json" if folder else None
    data = json.loads(file.read_text("utf-8")) if file and file.exists() else {}
    ranks = data.pop("ranks", {})
    data.update(ranks.get(str(rank() if of_rank is None else of_rank), {}))
    assert data.keys() <= {f.name for f in fields(Settings)}, data
    if "sm" in data:
        data["sm"] = tuple(data["sm"])
    return Settings(**data)


def switched(name: str) -> bool:
    folder = _folder()
    return folder is not None and (folder / name).exists()


def take_switch(name: str) -> bool:
    """Whether it is on; off afterwards."""
    if not switched(name):
        return False
    folder = _folder()
    assert folder is not None
    (folder / name).unlink(missing_ok=True)
    return True


def die_if_told() -> None:
    if switched(f"die-{rank()}"):
        os.kill(os.getpid(), signal.SIGKILL)


_writing = threading.Lock()


def record(call: str, **arguments: Any) -> None:
    """A line of what was called, for the test to read."""
    folder = _folder()
    if folder is not None:
        line = json.dumps({"call": call, **arguments}, default=str)
        with _writing, (folder / f"calls-{rank()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
