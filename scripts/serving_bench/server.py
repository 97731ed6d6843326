"""A server under test: `llmserve run` on a loopback port, its processes, and what its /metrics say."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from llmserve.config import Manifest
from llmserve.engine.launch import die_with_parent
from llmserve.errors import LlmserveError

START_TIMEOUT = 300.0
STOP_TIMEOUT = 60.0


@dataclass(frozen=True)
class Server:
    process: psutil.Popen
    base: str
    model: str  # as its clients call it
    vocab_size: int

    def rss(self) -> int:
        """Bytes of memory in use by all its processes; what several of them map counts in each."""
        total = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def serving(engine: Path, log: Path, flags: list[str]) -> Iterator[Server]:
    """LlmserveError, with the server's last words, where it does not come up."""
    manifest = Manifest.read(engine)
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "llmserve", "run", str(engine), "--host", "127.0.0.1", "--port", str(port), *flags]
    with log.open("wb") as out:
        process = psutil.Popen(command, stdout=out, stderr=out, start_new_session=True, preexec_fn=end_with_script)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_ready(process, base, log)
        yield Server(process, base, manifest.model_name, manifest.model.vocab_size)
    finally:
        stop(process)


def end_with_script() -> None:
    """In the server, before it is one: however this script ends, be it killed, the kernel then tells the server."""
    die_with_parent(signal.SIGTERM)


def wait_ready(process: psutil.Popen, base: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{base}/health").status_code == 200:
                return
        time.sleep(0.2)
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    raise LlmserveError(f"the server did not come up; the last line of {log}: {lines[-1] if lines else '(nothing)'}")


def stop(process: psutil.Popen) -> None:
    """In order, and if that takes too long, by force: nothing stays behind."""
    if process.poll() is not None:
        return
    tree = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(tree, timeout=STOP_TIMEOUT)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def metrics_of(text: str) -> dict[str, float]:
    """Prometheus' text → each metric's sum over its labels, without the prefix."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("llmserve_"):
            name = line.partition("{")[0].partition(" ")[0].removeprefix("llmserve_")
            sums[name] = sums.get(name, 0.0) + float(line.rpartition(" ")[2])
    return sums
