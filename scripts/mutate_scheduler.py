"""Would the tests notice? `python scripts/mutate_scheduler.py [--only WORD] [--jobs N]`.

Puts one fault after the other into the scheduler and the block pool, runs their tests, and prints which were caught, by
which test, and caught/total. Nothing on disk is changed: the test process loads the changed source instead. A fault is
a piece of source and what stands in its place; that it still is in the source, once, is checked first.
Exit code 1 where a fault was not caught.
"""

from __future__ import annotations

import argparse
import importlib.abc
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from scheduler_faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/scheduler", "-q", "-x", "-p", "no:cacheprovider"]
TIME_LIMIT = 300.0


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Loads one module with a fault in it."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._name = f"llmserve.scheduler.{fault.module}"

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin=self.get_filename(name)) if name == self._name else None

    def get_filename(self, name: str) -> str:
        return str(source_of(self._fault))

    def get_data(self, path: str | bytes) -> bytes:
        return Path(str(path)).read_text("utf-8").replace(self._fault.before, self._fault.after).encode()


@dataclass(frozen=True)
class Outcome:
    fault: Fault
    caught: bool
    how: str
    seconds: float


def source_of(fault: Fault) -> Path:
    return ROOT / "llmserve" / "scheduler" / f"{fault.module}.py"


def run_tests_with(index: int) -> int:
    """In a process of its own: pytest's exit code."""
    import pytest

    sys.meta_path.insert(0, Changed(FAULTS[index]))
    return int(pytest.main(TESTS))


def judge(index: int) -> Outcome:
    fault, started = FAULTS[index], time.monotonic()
    command = [sys.executable, __file__, "--child", str(index)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return Outcome(fault, True, "the tests hang", time.monotonic() - started)
    failed = re.search(r"^(?:FAILED|ERROR) \S*?([\w./]+(?:::\w+)?)", done.stdout, re.M)
    if done.returncode not in (0, 1) and not failed:
        raise SystemExit(f"{fault.title}: the tests did not run (exit code {done.returncode}):\n{done.stdout[-2000:]}")
    how = failed[1].rpartition("::")[2] if failed else ""
    return Outcome(fault, done.returncode != 0, how, time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults with this word in their title")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        sys.exit(run_tests_with(options.child))
    for fault in FAULTS:
        if (count := source_of(fault).read_text("utf-8").count(fault.before)) != 1:
            raise SystemExit(f"{fault.title}: {fault.before!r} is {count} times in {fault.module}.py, not once.")
    chosen = [index for index, fault in enumerate(FAULTS) if options.only in fault.title]
    print("| fault | caught by | s |\n|---|---|---|")
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(judge, chosen):
            outcomes.append(outcome)
            told = outcome.how if outcome.caught else "**nothing**"
            print(f"| {outcome.fault.title} | {told} | {outcome.seconds:.0f} |", flush=True)
    caught = sum(outcome.caught for outcome in outcomes)
    print(f"\ncaught {caught}/{len(outcomes)}")
    sys.exit(caught != len(outcomes))


if __name__ == "__main__":
    main()
