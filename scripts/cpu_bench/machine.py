"""The machine under the benchmark: what it is, who else is using it, and what a process has taken of it.

Standard library only, as workers use it too.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

TICKS = os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Bytes: the kernel's high-water mark of this process."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))


def describe() -> dict[str, str | int]:
    """Where and when a run took place."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in info if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8")
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": named.get("model name", platform.machine()),
        "cpu family and model": f"{named.get('cpu family', '?')} / {named.get('model', '?')}",
        "instructions": ", ".join(flag for flag in wanted if flag in flags),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{int(memory) / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "compiler": first_line(["c++", "--version"]),
        "python": platform.python_version(),
    }


def first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.stdout.splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "none"


class Locks:
    """Files whose locks are held, taken in order, while something is measured: whoever shares the machine may agree on
    them. Between measurements they are let go every now and then, for others to have their turn."""

    LONGEST = 45.0

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._held: list[IO[str]] = []
        self._since = 0.0

    def hold(self) -> None:
        if self._held and time.monotonic() - self._since > self.LONGEST:
            self.release()
            time.sleep(1)
        if not self._held:
            self._held = [path.open("a") for path in self._files]
            for file in self._held:
                fcntl.flock(file, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def release(self) -> None:
        for file in self._held:
            file.close()
        self._held = []


class ForeignLoad:
    """How many cores were busy for others while this process and its descendants did something."""

    def __init__(self) -> None:
        self._time, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def cores(self) -> float:
        seconds = max(0.05, time.monotonic() - self._time)
        foreign = (busy_seconds() - self._busy) - (own_seconds() - self._own)
        return max(0.0, foreign / seconds)


def busy_seconds() -> float:
    """CPU time of all processes on this machine."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def own_seconds() -> float:
    """CPU time of this process, its living descendants, and the dead ones they have waited for."""
    parents: dict[int, int] = {}
    times: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(after_name[1])
            times[int(entry.name)] = sum(map(int, after_name[11:15]))
    me = os.getpid()

    def is_mine(pid: int) -> bool:
        while pid not in (0, me):
            pid = parents.get(pid, 0)
        return pid == me

    return sum(spent for pid, spent in times.items() if is_mine(pid)) / TICKS
