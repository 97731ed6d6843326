"""What happens to clients, processes and exit codes when a process dies, and when the server is told to stop."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.e2e.server import Server, is_alive, serving

LONG = {"prompt": [7, 8, 9], "max_tokens": 1000, "temperature": 0, "extra_body": {"ignore_eos": True}}
PATIENTLY = ("--shutdown-timeout", "600")


class Client(threading.Thread):
    """One open stream; `outcome` is how it ended: a finish reason, or the error."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.outcome: str | Exception | None = None
        self.opened = threading.Event()  # the front has sent the request on, and its own headers back
        self.started = threading.Event()  # a token has come

    def run(self) -> None:
        try:
            stream = self.server.client.completions.create(model="demo", stream=True, **LONG)
            self.opened.set()
            for chunk in stream:
                self.started.set()
                self.outcome = chunk.choices[0].finish_reason or self.outcome
        except (openai.APIError, httpx.HTTPError) as e:
            self.outcome = e
        finally:
            self.opened.set()
            self.started.set()


def open_streams(server: Server, count: int = 8, *, held: bool = False) -> list[Client]:
    """`held`: by an engine that gives them no token for now."""
    clients = [Client(server) for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        assert (client.opened if held else client.started).wait(60)
    return clients


def open_streams_and_hold(server: Server, rank: psutil.Process) -> list[Client]:
    """Streams of which none can end before the rank goes on, which is stopped amid the text of the first.

    The other waits for it within a step, for as long as it takes.
    """
    while True:
        ended = server.metric("llmserve_request_success_total")
        clients = open_streams(server, 1)
        rank.suspend()
        clients += open_streams(server, 7, held=True)
        if server.metric("llmserve_request_success_total") == ended:
            return clients
        rank.resume()  # nothing went on here for as long as a text takes: once more
        for client in clients:
            client.join(60)


def assert_nothing_left(tree: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(tree, timeout=seconds)
    left = [p for p in alive if is_alive(p)]
    assert not left, f"still there: {[' '.join(p.cmdline())[:120] for p in left]}"


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
@pytest.mark.parametrize("victim", (0, 1))
def test_a_killed_rank_ends_the_job_and_every_stream_hears_of_it(
    victim: int, ranks: int | None, demo_engine: Path, tmp_path: Path
) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree, team = server.tree(), server.ranks()
        clients = open_streams_and_hold(server, team[1])
        team[victim].kill()
        with suppress(psutil.NoSuchProcess):  # it was the victim, or mpirun has ended it
            team[1].resume()
        for client in clients:
            client.join(10)
            assert isinstance(client.outcome, openai.APIError), f"{client.outcome!r}\n{server.log}"
            assert "engine" in str(client.outcome)
        assert server.wait(10) != 0
        assert_nothing_left(tree, 10)


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
def test_a_rank_killed_while_idle_ends_the_job_too(ranks: int | None, demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree = server.tree()
        server.ranks()[1].send_signal(signal.SIGKILL)
        assert server.wait(10) != 0, server.log
        assert_nothing_left(tree, 10)


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
def test_whoever_started_the_ranks_takes_them_along(ranks: int | None, demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree = server.tree()
        server.process.send_signal(signal.SIGKILL)
        assert_nothing_left(tree, 10)


def test_a_front_killed_before_its_engine_is_up_leaves_nothing(demo_engine: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmserve", "run", str(demo_engine), "--host", "127.0.0.1", "--port", "0"]
    with (tmp_path / "log").open("wb") as log:
        front = psutil.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 30
    while not (children := front.children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    front.kill()
    assert children
    assert_nothing_left([front, *children], 10)


@pytest.mark.parametrize("name", ("tokenizer.json", "rank1.safetensors"))
def test_an_altered_engine_is_refused(name: str, demo_engine: Path, tmp_path: Path) -> None:
    engine = shutil.copytree(demo_engine, tmp_path / "engine")
    data = bytearray((engine / name).read_bytes())
    data[-9] ^= 1
    (engine / name).write_bytes(data)
    command = [sys.executable, "-m", "llmserve", "generate", str(engine), "hello"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"{name} was altered" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
def test_stopping_finishes_what_runs_and_exits_0(ranks: int | None, demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", *PATIENTLY, ranks=ranks) as server:
        tree = server.tree()
        # Under mpirun rank 0 is told; mpirun itself would answer SIGTERM by killing the ranks.
        target = server.ranks()[0] if ranks else psutil.Process(server.process.pid)
        clients = open_streams(server)
        target.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(120)
            assert client.outcome == "length", f"{client.outcome!r}\n{server.log}"
        assert server.wait(10) == 0, server.log
        assert_nothing_left(tree, 10)


def test_mpirun_passes_sigusr1_on_and_that_stops_the_server_in_order(demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", *PATIENTLY, ranks=2) as server:
        tree = server.tree()
        clients = open_streams(server, 2)
        server.process.send_signal(signal.SIGUSR1)
        for client in clients:
            client.join(120)
            assert client.outcome == "length", f"{client.outcome!r}\n{server.log}"
        assert server.wait(10) == 0, server.log
        assert_nothing_left(tree, 10)


def test_the_bound_on_stopping_holds(demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", "--shutdown-timeout", "0", ranks=2) as server:
        rank = server.ranks()[0]
        clients = open_streams(server, 2)
        rank.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(10)
            assert client.outcome is not None
        assert server.wait(10) == 0, server.log


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
def test_a_killed_front_takes_the_engine_along(ranks: int | None, demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree = server.tree()
        front = (
            next(p for p in tree if any("llmserve.server.main" in word for word in p.cmdline())) if ranks else tree[0]
        )
        front.send_signal(signal.SIGKILL)
        assert server.wait(10) != 0
        assert_nothing_left(tree, 10)


def test_the_wrong_number_of_ranks_is_one_sentence(demo_engine: Path, tmp_path: Path) -> None:
    expected = pytest.raises(AssertionError, match=r"was built for tp_size=2 but 3 ranks are running")
    with expected, serving(demo_engine, tmp_path / "log", ranks=3):
        pass
