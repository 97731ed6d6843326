"""A mutation check: a list of faults, each put into the source by itself, and which of them the tests notice.

Knows nothing of how a fault gets into the process that runs the tests: that is each script's own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT = 300.0
"""Seconds that the tests may take; a fault that makes them hang is caught."""


@dataclass(frozen=True)
class Fault:
    """A piece of source, and what stands in its place."""

    title: str
    module: str  # a path below llmserve, without .py
    before: str
    after: str
    tests: str

    def source(self, root: Path = ROOT) -> Path:
        return root / "llmserve" / f"{self.module}.py"

    def changed(self, source: str) -> str:
        return source.replace(self.before, self.after)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", default="", help="faults with this word in their title")
    made.add_argument("--jobs", type=int, default=2)
    return made


def noticed_by(fault: Fault, command: Sequence[str], cwd: Path) -> str:
    """The test of pytest's, run by `command`, that failed first; empty where none did."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return "the tests hang"
    failed = re.search(r"^(?:FAILED|ERROR) \S*?([\w./]+(?:::\w+)?)", done.stdout, re.M)
    if failed:
        return failed[1].rpartition("::")[2]
    if done.returncode:
        raise SystemExit(f"{fault.title}: the tests did not run (exit code {done.returncode}):\n{done.stdout[-2000:]}")
    return ""


def check(faults: Sequence[Fault], judge: Callable[[Fault], str], options: argparse.Namespace) -> None:
    """Prints which of the faults asked for were noticed, and caught/total. Exits, with 1 if one was not."""
    for fault in faults:
        if (count := fault.source().read_text("utf-8").count(fault.before)) != 1:
            raise SystemExit(f"{fault.title}: {fault.before!r} is {count} times in {fault.module}.py, not once.")

    def timed(fault: Fault) -> tuple[Fault, str, float]:
        started = time.monotonic()
        return fault, judge(fault), time.monotonic() - started

    print("| fault | caught by | s |\n|---|---|---|")
    chosen = [fault for fault in faults if options.only in fault.title]
    caught = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, by, seconds in pool.map(timed, chosen):
            caught += bool(by)
            print(f"| {fault.title} | {by or '**nothing**'} | {seconds:.0f} |", flush=True)
    print(f"\ncaught {caught}/{len(chosen)}")
    sys.exit(caught != len(chosen))
