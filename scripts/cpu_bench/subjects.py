"""What is measured: an engine with one model in one format, whatever process it takes. All answer the same questions:

* decode: tokens/s of one sequence after its prompt;
* prefill: prompt tokens/s of one sequence, by the time to its first token;
* batch: as decode and in all, of several sequences at once;
* load: what a cold start takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cpu_bench.lines import Worker, WorkerError

Values = dict[str, float]
PATIENCE = 1800
"""Seconds that one measurement may take."""


class NoResultError(WorkerError):
    """A tool ended well and said nothing."""


@dataclass(frozen=True)
class Point:
    """One measurement's kind and sizes: tokens of the prompt, tokens decoded after it, sequences."""

    measure: str
    prompt: int = 0
    new: int = 0
    batch: int = 1


class Subject(ABC):
    def __init__(self, engine: str, label: str, format_name: str) -> None:
        self.engine = engine  # a key of shapes.BYTES_PER_WEIGHT
        self.label = label
        self.format = format_name

    def measure(self, point: Point) -> Values:
        if point.measure == "decode":
            return self.decode(point.prompt, point.new)
        if point.measure == "prefill":
            return self.prefill(point.prompt)
        if point.measure == "batch":
            return self.batch(point.batch, point.prompt, point.new)
        return self.load()

    def open(self) -> None:  # noqa: B027
        """Be ready to be measured; nothing to do for most."""

    def close(self) -> None:  # noqa: B027
        """Free what `open` took."""

    @abstractmethod
    def decode(self, prompt: int, new: int) -> Values: ...

    @abstractmethod
    def prefill(self, prompt: int) -> Values: ...

    @abstractmethod
    def batch(self, size: int, prompt: int, new: int) -> Values: ...

    @abstractmethod
    def load(self) -> Values: ...


class WorkerSubject(Subject):
    """A worker that can `generate`: it stays between measurements, and does a little before each, to be warm."""

    def __init__(self, engine: str, label: str, format_name: str, start: Callable[[], Worker]) -> None:
        super().__init__(engine, label, format_name)
        self._start = start
        self._worker: Worker | None = None

    def open(self) -> None:
        if self._worker is None:
            self._worker = self._start()
            self._worker.call("generate", batch=2, prompt=128, new=8)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _generate(self, batch: int, prompt: int, new: int) -> Values:
        self.open()
        assert self._worker is not None
        try:
            self._worker.call("generate", batch=1, prompt=32, new=4)
            return self._worker.call("generate", batch=batch, prompt=prompt, new=new)
        except WorkerError:
            self.close()
            raise

    def decode(self, prompt: int, new: int) -> Values:
        # The first token comes with the prompt, so that it takes one more to decode `new` of them.
        return {"decode": self._generate(1, prompt, new + 1)["decode"]}

    def prefill(self, prompt: int) -> Values:
        ttft = self._generate(1, prompt, 1)["ttft"]
        return {"prefill": prompt / ttft, "ttft": ttft}

    def batch(self, size: int, prompt: int, new: int) -> Values:
        rates = self._generate(size, prompt, new + 1)
        return {"decode": rates["decode"], "total": rates["total"]}

    def load(self) -> Values:
        worker = self._start()
        try:
            worker.call("generate", batch=1, prompt=16, new=1)
            first_token = time.monotonic() - worker.started
            worker.call("generate", batch=1, prompt=512, new=16)
            peak = worker.call("peak_memory")
        finally:
            worker.close()
        return {"first_token": first_token, "load": worker.ready["load"], "peak_memory": peak}


class LlamaCppSubject(Subject):
    """llama.cpp's own tools, which start anew for each measurement and warm themselves up.

    They feed random token ids and do not sample, so what the others spend on choosing tokens is not in these figures.
    """

    def __init__(self, label: str, format_name: str, tool: Callable[[str], Path], file: Path, threads: int) -> None:
        super().__init__("llama.cpp", label, format_name)
        self._tool = tool
        self._file = file
        self._threads = threads

    def _bench(self, *flags: str) -> tuple[float, float, int]:
        """llama-bench once → (tokens/s, seconds of the whole process, its peak memory)."""
        command = [self._tool("llama-bench"), "-m", self._file, "-t", self._threads, "-r", 1, "-o", "jsonl", *flags]
        output, seconds, peak = run_once(list(map(str, command)))
        return json.loads(last_object(output))["avg_ts"], seconds, peak

    def decode(self, prompt: int, new: int) -> Values:
        rate, _, _ = self._bench("-p", "0", "-n", str(new), "-d", str(prompt))
        return {"decode": rate}

    def prefill(self, prompt: int) -> Values:
        rate, _, _ = self._bench("-p", str(prompt), "-n", "0")
        return {"prefill": rate, "ttft": prompt / rate}

    def batch(self, size: int, prompt: int, new: int) -> Values:
        context = size * (-(-(prompt + new) // 256) * 256)  # each sequence gets an equal part
        sizes = ["-npp", prompt, "-ntg", new, "-npl", size, "-c", context, "-b", 2048, "-ub", 512]
        threads = ["-t", self._threads, "-tb", self._threads]
        command = [self._tool("llama-batched-bench"), "-m", self._file, *threads, *sizes, "--output-format", "jsonl"]
        row = json.loads(self._row(list(map(str, command))))
        return {"decode": row["speed_tg"], "total": size * new / row["t"]}

    def _row(self, command: list[str]) -> str:
        """llama-batched-bench may end before the thread that prints has printed; then it is asked again."""
        for attempt in range(5):
            try:
                return last_object(run_once(command)[0])
            except NoResultError:
                if attempt == 4:
                    raise
        raise AssertionError

    def load(self) -> Values:
        """`first_token`: a whole run of the tool with a prompt of 16 and nothing after it."""
        _, first_token, _ = self._bench("-p", "16", "-n", "0", "--no-warmup")
        _, _, peak = self._bench("-p", "0", "-n", "16", "-d", "512", "--no-warmup")
        return {"first_token": first_token, "peak_memory": peak}


def run_once(command: list[str], environment: Mapping[str, str] | None = None) -> tuple[str, float, int]:
    """(stdout, seconds, peak memory in bytes) of a command; WorkerError where it fails."""
    started = time.monotonic()
    limited = ["timeout", str(PATIENCE), *command]
    process = subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.terminate()  # `timeout` passes it on
    if process.returncode:
        raise WorkerError(f"{Path(command[0]).name} ended with code {process.returncode}")
    return output, time.monotonic() - started, usage.ru_maxrss * 1024


def last_object(output: str) -> str:
    """The last line that is a JSON object."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise NoResultError("the tool printed no result")
    return lines[-1]
