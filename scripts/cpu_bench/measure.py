"""Measuring in turns: in every round each subject once at each point, so that all see the machine's moods alike."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cpu_bench import machine
from cpu_bench.lines import Worker, WorkerError
from cpu_bench.sections import Section, describe
from cpu_bench.subjects import Point, Subject, Values
from cpu_bench.workplace import Workplace

SETTLE = 0.3
"""Seconds between measurements, in which the threads of the one before go to sleep."""
DISTURBED = 0.15
"""A measurement during which others used more cores than this is taken again."""
ATTEMPTS = 3
LONG = 20.0
"""Seconds of a measurement that is not taken again, disturbed or not."""


class Ceilings:
    """The machine's ceilings, measured in a process of their own. `problem` says why they cannot be, if so."""

    def __init__(self, place: Workplace, threads: int) -> None:
        self._threads = threads
        self.problem: str | None = None
        self._worker: Worker | None = None
        command = [sys.executable, "-m", "cpu_bench.ceilings"]
        try:
            self._worker = Worker(command, place.logs / "ceilings.log", place.environment())
        except WorkerError as e:
            self.problem = str(e)
            place.say(f"absent: ceilings: {e}")

    def measure(self) -> Values:
        """Empty where they cannot be measured."""
        return self._call("measure") or {}

    def reading(self) -> float | None:
        """Bytes per second at this moment. None where it cannot be measured."""
        return self._call("reading")

    def _call(self, name: str) -> Any:
        if self._worker is None:
            return None
        try:
            return self._worker.call(name, threads=self._threads)
        except WorkerError as e:
            self.close()
            self.problem = str(e)
            return None

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class Turns:
    """Runs sections and collects `samples` and `failures`, plain data that can be written as JSON."""

    def __init__(self, place: Workplace, rounds: int, ceilings: Ceilings, locks: list[Path]) -> None:
        self._place = place
        self._rounds = rounds
        self._ceilings = ceilings
        self._locks = machine.Locks(locks)
        self.samples: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []

    def run(self, section: Section, shape: str, subjects: list[Subject]) -> None:
        if not subjects:
            return
        rounds = max(1, math.ceil(self._rounds * section.share_of_rounds))
        able = {point: list(subjects) for point in section.points}
        try:
            for number in range(1, rounds + 1):
                self._locks.hold()
                self._take_ceilings(section, shape, number)
                for point in section.points:
                    self._take_point(section, shape, able[point], point, number)
        finally:
            self._locks.release()
            for subject in subjects:
                subject.close()

    def _take_point(self, section: Section, shape: str, able: list[Subject], point: Point, number: int) -> None:
        """One after the other; who fails is not asked again."""
        if point.measure != "load":
            able[:] = [subject for subject in able if self._opens(subject, shape)]
        self._locks.hold()
        able[:] = [subject for subject in able if self._take(section, shape, subject, point, number)]

    def _opens(self, subject: Subject, shape: str) -> bool:
        try:
            subject.open()
        except (WorkerError, OSError) as e:
            self._fail(subject, f"{shape}: starting {subject.label}, {subject.format}", e)
            return False
        return True

    def _fail(self, subject: Subject, what: str, error: Exception) -> None:
        self._place.say(f"{what}: FAILED: {error}")
        self.failures.append({"what": what, "reason": str(error)})
        subject.close()

    def _take_ceilings(self, section: Section, shape: str, number: int) -> None:
        values, foreign = self._undisturbed(self._ceilings.measure)
        if values:
            self._keep(section, shape, number, values, foreign, subject="ceilings")

    def _take(self, section: Section, shape: str, subject: Subject, point: Point, number: int) -> bool:
        """Whether it could be measured."""
        what = f"{shape}, {section.name}, round {number}: {subject.label}, {subject.format}, {describe(point)}"
        try:
            values, foreign = self._undisturbed(lambda: self._measure(subject, point))
        except (WorkerError, OSError, KeyError, ValueError) as e:
            self._fail(subject, what, e)
            return False
        said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._place.say(f"{what}: {said}" + (f" (others: {foreign:.2f} cores)" if foreign > DISTURBED else ""))
        identity = {"subject": subject.label, "engine": subject.engine, "format": subject.format}
        self._keep(section, shape, number, values, foreign, point=vars(point), **identity)
        return True

    def _measure(self, subject: Subject, point: Point) -> Values:
        """Decoding is measured between two looks at how fast memory is being read: that changes within seconds on a
        machine that others share, and a share of what it was a minute ago says nothing."""
        if point.measure != "decode":
            return subject.measure(point)
        before = self._ceilings.reading()
        values = subject.measure(point)
        time.sleep(SETTLE)
        after = self._ceilings.reading()
        return values if before is None or after is None else values | {"read": (before + after) / 2}

    def _keep(self, section: Section, shape: str, number: int, values: Values, foreign: float, **more: Any) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sample = {"shape": shape, "section": section.name, "round": number, **more, "values": values}
        self.samples.append(sample | {"foreign_cores": round(foreign, 3), "time": now})

    def _undisturbed(self, measurement: Callable[[], Values]) -> tuple[Values, float]:
        """The least disturbed of up to ATTEMPTS → (values, cores that others used meanwhile)."""
        best: tuple[Values, float] | None = None
        for _ in range(ATTEMPTS):
            time.sleep(SETTLE)
            started, others = time.monotonic(), machine.ForeignLoad()
            values = measurement()
            foreign = others.cores()
            if best is None or foreign < best[1]:
                best = values, foreign
            if foreign <= DISTURBED or time.monotonic() - started > LONG:
                break
        assert best is not None
        return best
