"""What happens to clients, processes and exit codes when a process dies, and when the server is told to stop."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.e2e.server import Server, serving

LONG = {"prompt": [7, 8, 9], "max_tokens": 400, "temperature": 0, "extra_body": {"ignore_eos": True}}


class Client(threading.Thread):
    """One open stream; `outcome` is how it ended: a finish reason, or the error."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.outcome: str | Exception | None = None
        self.started = threading.Event()

    def run(self) -> None:
        try:
            for chunk in self.server.client.completions.create(model="demo", stream=True, **LONG):
                self.started.set()
                self.outcome = chunk.choices[0].finish_reason or self.outcome
        except (openai.APIError, httpx.HTTPError) as e:
            self.outcome = e
        finally:
            self.started.set()


def open_streams(server: Server, count: int = 8) -> list[Client]:
    clients = [Client(server) for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        assert client.started.wait(30)
    return clients


def assert_nothing_left(tree: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(tree, timeout=seconds)
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"still there: {[' '.join(p.cmdline())[:120] for p in left]}"


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
@pytest.mark.parametrize("victim", (0, 1))
def test_a_killed_rank_ends_the_job_and_every_stream_hears_of_it(
    victim: int, ranks: int | None, demo_engine: Path, tmp_path: Path
) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree = server.tree()
        clients = open_streams(server)
        killed = time.monotonic()
        server.ranks()[victim].send_signal(signal.SIGKILL)
        for client in clients:
            client.join(10)
            assert isinstance(client.outcome, openai.APIError), f"{client.outcome!r}\n{server.log}"
            assert "engine" in str(client.outcome)
        assert server.wait(10) != 0
        assert_nothing_left(tree, killed + 10 - time.monotonic())


@pytest.mark.parametrize("ranks", (2, None), ids=("under mpirun", "alone"))
def test_stopping_finishes_what_runs_and_exits_0(ranks: int | None, demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=ranks) as server:
        tree = server.tree()
        clients = open_streams(server)
        # Under mpirun rank 0 is told; mpirun itself would answer SIGTERM by killing the ranks.
        target = server.ranks()[0] if ranks else psutil.Process(server.process.pid)
        target.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(60)
            assert client.outcome == "length", f"{client.outcome!r}\n{server.log}"
        assert server.wait(10) == 0, server.log
        assert_nothing_left(tree, 5)


def test_mpirun_passes_sigusr1_on_and_that_stops_the_server_in_order(demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", ranks=2) as server:
        tree = server.tree()
        clients = open_streams(server, 2)
        server.process.send_signal(signal.SIGUSR1)
        for client in clients:
            client.join(60)
            assert client.outcome == "length", f"{client.outcome!r}\n{server.log}"
        assert server.wait(10) == 0, server.log
        assert_nothing_left(tree, 5)


def test_the_bound_on_stopping_holds(demo_engine: Path, tmp_path: Path) -> None:
    with serving(demo_engine, tmp_path / "log", "--shutdown-timeout", "0", ranks=2) as server:
        clients = open_streams(server, 2)
        server.ranks()[0].send_signal(signal.SIGTERM)
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
