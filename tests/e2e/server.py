"""A real llmserve server for a test: real mpirun, real processes, real HTTP on a loopback port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from openai import OpenAI

from llmserve.engine.launch import find_mpirun

START_TIMEOUT = 120.0


class Server:
    def __init__(self, process: subprocess.Popen[bytes], log: Path, base: str) -> None:
        self.process = process
        self.base = base
        self._log = log
        self.client = OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=120)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    @property
    def model(self) -> str:
        return self.client.models.list().data[0].id

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx.get(f"{self.base}/metrics", timeout=60).text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{|\s)", line)]
        assert values, f"no metric {name}"
        return sum(values)

    def tree(self) -> list[psutil.Process]:
        """Every process that belongs to this server, found by the engine's path on its command line or by descent."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def ranks(self) -> list[psutil.Process]:
        """The ranks in order."""
        found = {}
        for process in self.tree():
            rank = process.environ().get("OMPI_COMM_WORLD_RANK") if is_rank(process) else None
            if rank is not None:
                found[int(rank)] = process
        return [found[i] for i in sorted(found)] or self.tree()[1:]  # all of an engine that takes no mpirun

    @contextmanager
    def held(self, calls: int) -> Iterator[None]:
        """Its ranks stand still while calls are started, until the front has let in so many: the engine finds them all
        at once."""
        ranks, before = self.ranks(), self.metric("llmserve_request_params_n_count")
        assert ranks
        for rank in ranks:
            rank.suspend()
        try:
            yield
            deadline = time.monotonic() + 60
            while (admitted := self.metric("llmserve_request_params_n_count") - before) < calls:
                assert time.monotonic() < deadline, f"{admitted} of {calls} calls were let in"
                time.sleep(0.02)
        finally:
            for rank in ranks:
                rank.resume()

    def wait(self, timeout: float) -> int:
        return self.process.wait(timeout)


def is_rank(process: psutil.Process) -> bool:
    line = " ".join(process.cmdline())
    return "mpirun" not in line and (
        "llmserve.engine.rank" in line or re.search(r"llmserve( |.*-m llmserve )run ", line)
    )


def is_alive(process: psutil.Process) -> bool:
    """It may vanish while it is looked at."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def serving(
    engine: Path, log: Path, *flags: str, ranks: int | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`mpirun -n ranks llmserve run` (ranks given), or `llmserve run` alone. Whatever is left at the end is killed.

    `variables` are added to the environment.
    """
    command = [sys.executable, "-m", "llmserve", "run", str(engine), "--host", "127.0.0.1", "--port", "0", *flags]
    if ranks is not None:
        command = [find_mpirun(), "-n", str(ranks), "--map-by", ":OVERSUBSCRIBE", *command]
    # A folder for temporary files of its own, to see what is left there; a short one, as sockets' paths have to be.
    temporary = tempfile.mkdtemp(prefix="e2e-", dir="/tmp")
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"TMPDIR": temporary, **(variables or {})}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    tree: list[psutil.Process] = []
    try:
        server = Server(process, log, _wait_ready(process, log))
        assert not list(Path(temporary).glob("llmserve-*")), "a killed server would leave this behind"
        tree = server.tree()
        yield server
    finally:
        if process.poll() is None:
            tree += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(10)
        shutil.rmtree(temporary, ignore_errors=True)  # who was just killed may still be taking files away


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        code = process.poll()
        text = log.read_text("utf-8", "replace")  # of a server that has ended, all of it
        assert code is None, f"the server ended with code {code}:\n{text}"
        if match := re.search(r"Listening on (http://\S+)", text):
            try:
                if httpx.get(f"{match[1]}/health").status_code == 200:
                    return match[1]
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    raise AssertionError(f"the server was not ready within {START_TIMEOUT} s:\n{log.read_text()}")
