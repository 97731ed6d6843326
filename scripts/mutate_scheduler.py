"""Would the tests notice? `python scripts/mutate_scheduler.py [--only WORD] [--jobs N]`.

Puts one fault after the other into the scheduler and the block pool, runs their tests, and prints which were caught, by
which test, and caught/total. Nothing on disk is changed: the test process loads the changed source instead. A fault is
a piece of source and what stands in its place; that it still is in the source, once, is checked first.
Exit code 1 where a fault was not caught.
"""

from __future__ import annotations

import argparse
import importlib.abc
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from mutation import ROOT, Fault, check, noticed_by, parser
from scheduler_faults import FAULTS


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Loads one module with a fault in it."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._name = "llmserve." + fault.module.replace("/", ".")

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin=self.get_filename(name)) if name == self._name else None

    def get_filename(self, name: str) -> str:
        return str(self._fault.source())

    def get_data(self, path: str | bytes) -> bytes:
        return self._fault.changed(self._fault.source().read_text("utf-8")).encode()


def run_tests_with(fault: Fault) -> int:
    """In a process of its own: pytest's exit code."""
    import pytest

    sys.meta_path.insert(0, Changed(fault))
    return int(pytest.main([fault.tests, "-q", "-x", "-p", "no:cacheprovider"]))


def judge(fault: Fault) -> str:
    return noticed_by(fault, [sys.executable, __file__, "--child", str(FAULTS.index(fault))], ROOT)


def main() -> None:
    parsed = parser(__doc__)
    parsed.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parsed.parse_args()
    if options.child is not None:
        sys.exit(run_tests_with(FAULTS[options.child]))
    check(FAULTS, judge, options)


if __name__ == "__main__":
    main()
