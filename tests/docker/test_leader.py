"""docker/hosts/leader.sh with an ssh and an mpirun that only note what they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docker.files import DOCKER

LEADER = DOCKER / "hosts" / "leader.sh"
MPIRUN = """#!/bin/sh
printf '%s\\n' "$*" > {folder}/told
trap 'echo USR1 >> {folder}/told; exit 0' USR1
touch {folder}/started
{rest}
"""
WAITS = "while true; do sleep 0.02; done"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script; `ssh` and `mpirun` are what these commands do, `size` how many hosts there are."""
    leaders: list[subprocess.Popen[str]] = []

    def started(
        script: Path = LEADER, *, ssh: str = "true", mpirun: str = WAITS, size: int = 3
    ) -> subprocess.Popen[str]:
        for name, text in (("ssh", f"#!/bin/sh\n{ssh}\n"), ("mpirun", MPIRUN.format(folder=tmp_path, rest=mpirun))):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        env = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "LWS_LEADER_ADDRESS": "serve-0.serve.default",
            "LWS_GROUP_SIZE": str(size),
            "LLMSERVE_HOSTS_TIMEOUT": "0",
        }
        command = ["sh", script, "llmserve", "run", "engine"]
        leaders.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return leaders[-1]

    yield started
    for leader in leaders:
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(leader.pid, signal.SIGKILL)


def until_started(folder: Path) -> None:
    while not (folder / "started").exists():
        time.sleep(0.01)


def test_a_rank_on_each_host_and_a_stop_in_order(start: Start, tmp_path: Path) -> None:
    with start() as leader:
        until_started(tmp_path)
        leader.send_signal(signal.SIGTERM)
        assert leader.wait() == 0
    command, heard = (tmp_path / "told").read_text().splitlines()
    hosts = "serve-0.serve.default:1,serve-0-1.serve.default:1,serve-0-2.serve.default:1"
    assert command == f"-n 3 --host {hosts} --bind-to none llmserve run engine"
    assert heard == "USR1"


def test_a_stop_that_comes_before_the_script_knows_its_mpirun_is_handed_on(start: Start, tmp_path: Path) -> None:
    """As if it had no processor there until mpirun runs and the stop has come."""
    fork, known = "&\n", "mpirun=$!"
    before, after = LEADER.read_text().split(fork + known)
    script = tmp_path / "leader.sh"
    script.write_text(f"{before}{fork}until [ -e {tmp_path}/asked ]; do sleep 0.02; done\n{known}{after}")
    with start(script, mpirun=f"kill -TERM $PPID; touch {tmp_path}/asked; {WAITS}") as leader:
        assert leader.wait() == 0
    assert (tmp_path / "told").read_text().splitlines()[1:] == ["USR1"]


@pytest.mark.parametrize(("ended", "code"), [("exit 0", 1), ("exit 7", 7)])
def test_an_end_that_nobody_asked_for_is_a_failure(start: Start, ended: str, code: int) -> None:
    """mpirun's own exit code may be 0 when it loses a host."""
    with start(mpirun=ended) as leader:
        assert leader.wait() == code


def test_a_host_that_does_not_come_is_named(start: Start, tmp_path: Path) -> None:
    with start(ssh="exit 255") as leader:
        _, said = leader.communicate()
    assert leader.returncode == 1
    assert "serve-0-1.serve.default could not be reached within 0 s" in said
    assert not (tmp_path / "told").exists()
