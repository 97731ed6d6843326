"""The ranks of one host, each a process: what one wrote all see, and whoever waits for a dead rank is told at once."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import pytest

from llmserve.ops.cpu.team import Team, form_team
from tests.mpi import mpirun

try:
    from llmserve.ops.cpu.kernels import Team as Native
except ImportError as e:
    pytest.skip(f"the extension is not built here ({e})", allow_module_level=True)

AREA = 1 << 20
PROCESSES = multiprocessing.get_context("forkserver")  # of a server that has imported this module, and mapped nothing
PROCESSES.set_forkserver_preload([__name__])


def array(team: Team, rank: int, dtype: str, count: int, offset: int = 0) -> np.ndarray:
    """`count` values of a rank's area, in place."""
    memory = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(team.area(rank) + offset)
    return np.frombuffer(memory, dtype)


# What ranks do, in processes of their own. The result goes to the test.


def count_together(team: Team, rounds: int, delay: float) -> int:
    """In every round each rank adds 1 to what it read from the next rank's counter, and compares all of them."""
    counters = [array(team, rank, "int64", 2) for rank in range(team.size)]
    rng = random.Random(team.rank)
    for i in range(rounds):
        before = counters[(team.rank + 1) % team.size][(i + 1) % 2]
        if delay and rng.random() < 0.5:
            time.sleep(rng.random() * delay)
        counters[team.rank][i % 2] = before + 1
        team.barrier()
        assert [int(counter[i % 2]) for counter in counters] == [i + 1] * team.size
    return rounds


def sum_together(team: Team, rounds: int, width: int) -> str:
    """Sums in rank order over two buffers used in turn, one barrier each, as a step of the model makes them."""
    total = np.zeros(width, "float32")
    for i in range(rounds):
        at = (i % 2) * width * 4
        array(team, team.rank, "float32", width, at)[:] = np.float32(0.1) * (team.rank + 1) + total / team.size
        team.barrier()
        total = np.zeros(width, "float32")
        for rank in range(team.size):
            total += array(team, rank, "float32", width, at)
    return total.tobytes().hex()


def pass_barriers(team: Team, rounds: int) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    for _ in range(rounds):
        team.barrier()
    return (time.perf_counter() - start) / rounds, team.stats()


def wait_for_the_late(team: Team, rounds: int, delay: float) -> list[float]:
    """How long after the last rank, which is late, this one goes on."""
    stamp, after = array(team, team.size - 1, "float64", 1), []
    for _ in range(rounds):
        if team.rank == team.size - 1:
            time.sleep(delay)
            stamp[0] = time.monotonic()
        team.barrier()
        after.append(time.monotonic() - stamp[0])
        team.barrier()
    return after


def wait_unless(team: Team, rank: int, act: Callable[[Team], None]) -> tuple[str, float, list[str]]:
    """Passes two barriers and then waits for `rank`, which does something else instead. What came of it, when, and
    what is still mapped or open of the team's memory when it is released."""
    team.barrier()
    team.barrier()
    if team.rank == rank:
        act(team)
        return "", time.monotonic(), []
    with pytest.raises(RuntimeError) as raised:
        team.barrier()
    said, when = str(raised.value), time.monotonic()
    with pytest.raises(RuntimeError, match=re.escape(said)):
        team.barrier()
    array(team, rank, "int64", AREA // 8)[:] = 1  # a dead rank's area is still there
    array(team, team.rank, "int64", 1)[0] = 1  # whoever looks sees that this one was told
    return said, when, left_behind()


def left_behind() -> list[str]:
    """The memory of teams among this process's open files, and its name where a file system shows one."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [name for name in [*files, *os.listdir("/dev/shm")] if "llmserve" in name]


def sleep_for_ever(begun: Event, team: Team) -> None:
    begun.set()
    time.sleep(1000)


def abort(team: Team) -> None:
    time.sleep(0.05)
    team.abort()
    others = [array(team, rank, "int64", 1) for rank in range(team.size) if rank != team.rank]
    while not all(told[0] for told in others):  # alive, and still holding its part
        time.sleep(0.01)


def leave(team: Team) -> None:
    time.sleep(0.05)  # after which rank_process lets go of it


# Processes, and the test as the line between them.


def rank_process(line: Connection, rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    def all_gather_text(text: str) -> list[str]:
        line.send(text)
        return line.recv()

    team, reason = form_team(Native, rank, size, AREA, all_gather_text)
    line.send(reason)
    if team is not None:
        result = work(team, *arguments)
        del team
        line.send(result)
        line.recv()  # until the test has seen everything: a rank's end is for tests that want one


@contextmanager
def ranks(size: int, work: Callable[..., Any], *arguments: Any) -> Iterator[list[tuple[Any, Connection]]]:
    """A process and its line per rank, at work."""
    pairs = []
    for rank in range(size):
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=rank_process, args=(theirs, rank, size, work, arguments), daemon=True)
        process.start()
        theirs.close()
        pairs.append((process, ours))
    try:
        for _ in range(2):
            texts = [receive(line) for _, line in pairs]
            for _, line in pairs:
                line.send(texts)
        assert [receive(line) for _, line in pairs] == [""] * size
        yield pairs
        for _, line in pairs:
            with suppress(BrokenPipeError):  # a victim, whose death the kernel may tell us of a little later
                line.send(None)
        for process, _ in pairs:
            process.join(10)
    finally:
        for process, _ in pairs:
            process.kill()
            process.join()


def receive(line: Connection) -> Any:
    assert line.poll(60), "a rank hangs"
    return line.recv()


def results(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    with ranks(size, work, *arguments) as pairs:
        return [receive(line) for _, line in pairs]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("rounds, delay", [(20_000, 0.0), (300, 0.001)], ids=["at once", "with delays"])
def test_nobody_passes_before_all_have_come(size: int, rounds: int, delay: float) -> None:
    if size > len(os.sched_getaffinity(0)):
        rounds = min(rounds, 5000)
    assert results(size, count_together, rounds, delay) == [rounds] * size


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_has_the_same_sum_to_the_bit(size: int) -> None:
    expected = np.zeros(4096, "float32")
    for _ in range(200):
        parts = [np.float32(0.1) * (rank + 1) + expected / size for rank in range(size)]
        expected = np.zeros(4096, "float32")
        for part in parts:
            expected += part
    assert results(size, sum_together, 200, 4096) == [expected.tobytes().hex()] * size


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_who_waits_for_a_killed_rank_is_told(victim: int) -> None:
    begun = PROCESSES.Event()
    with ranks(3, wait_unless, victim, partial(sleep_for_ever, begun)) as pairs:
        process, _ = pairs[victim]
        assert begun.wait(60)
        time.sleep(0.2)  # the others may well be asleep by now, and the victim's place is empty
        killed = time.monotonic()
        process.kill()
        for rank, (_, line) in enumerate(pairs):
            if rank != victim:
                said, when, left = receive(line)
                assert said == (
                    f"rank {victim} of the engine is gone (process {process.pid} has ended); start the engine again."
                )
                print(f"\nrank {rank} was told {(when - killed) * 1e3:.0f} ms after")
                assert not left
    assert process.exitcode == -signal.SIGKILL


def test_a_rank_killed_in_its_sleep_is_missed_by_the_next_to_come() -> None:
    begun = PROCESSES.Event()
    with ranks(3, wait_unless, 1, partial(sleep_for_ever, begun)) as pairs:
        assert begun.wait(60)
        time.sleep(0.2)
        pairs[2][0].kill()  # waits for rank 1, as rank 0 does
        said, _, _ = receive(pairs[0][1])
        assert said.startswith("rank 2 of the engine is gone")
        pairs[1][0].kill()


def test_an_abort_wakes_everyone() -> None:
    with ranks(3, wait_unless, 1, abort) as pairs:
        outcomes = [receive(pairs[rank][1]) for rank in (0, 2, 1)]
    assert [said for said, _, _ in outcomes] == ["rank 1 of the engine gave up; its log says why."] * 2 + [""]


def test_a_rank_that_leaves_is_not_waited_for() -> None:
    said = [said for said, _, _ in results(3, wait_unless, 2, leave)]
    assert said == ["rank 2 of the engine has left before the others; its log says why."] * 2 + [""]


def test_more_ranks_than_cores_get_on() -> None:
    size = 2 * len(os.sched_getaffinity(0))
    outcomes = results(min(size, 16), pass_barriers, 2000)
    print(f"\n{len(outcomes)} ranks: {outcomes[0][0] * 1e6:.1f} us a barrier, {outcomes[0][1]}")
    assert all(stats["barriers"] == 2000 for _, stats in outcomes)


def test_times() -> None:
    """Nothing is asserted of the figures: other work may run beside a test."""
    seconds, stats = results(2, pass_barriers, 200_000)[0]
    print(f"\n2 ranks, called from Python: {seconds * 1e9:.0f} ns a barrier, {stats}")
    after = sorted(results(2, wait_for_the_late, 500, 0.001)[0])
    print(f"1 ms late: the other goes on {after[len(after) // 2] * 1e6:.1f} us after, at most {after[-1] * 1e6:.1f} us")


ONE_SENTENCE = re.compile(r"[^.]+(\.\d[^.]*)*\.")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h: "", "'' is no handle of a team"),
        (lambda h: h.replace("pid:[", "pid:[9"), "rank 1 runs in another pid namespace than rank 0"),
        (lambda h: re.sub(r"team-\w+", "team-0", h), "rank 1 does not find rank 0's memory at /proc/"),
        (lambda h: "1 0 " + h.split(" ", 2)[2], "rank 1 does not find rank 0's memory at /proc/1/fd/0"),
        (lambda h: f"{2**22 + 1} 3 " + h.split(" ", 2)[2], "rank 1 does not find rank 0's memory"),
        (lambda h: h.rsplit(" ", 1)[0] + " 1", "rank 0's memory has not the size its handle says"),
    ],
)
def test_a_handle_that_leads_nowhere_is_refused(change: Callable[[str], str], message: str) -> None:
    team = Native.create(2, AREA)
    with pytest.raises(RuntimeError, match=re.escape(message)) as raised:
        Native.attach(change(team.handle), 1)
    assert ONE_SENTENCE.fullmatch(str(raised.value))


def test_every_rank_hears_why_there_is_no_team() -> None:
    """Rank 1 sits elsewhere: rank 0 made its part and gives it up again."""
    gc.collect()  # what tests before had in circles would else go meanwhile
    before = left_behind()  # a test that failed holds what it had
    said: list[list[str]] = []

    def all_gather_text(text: str) -> list[str]:
        said.append([text, "" if not said else "rank 1 runs in another pid namespace than rank 0."])
        return said[-1]

    assert form_team(Native, 0, 2, AREA, all_gather_text) == (
        None,
        "rank 1 runs in another pid namespace than rank 0.",
    )
    assert left_behind() == before
    assert form_team(Native, 0, 0, AREA, lambda text: [text]) == (
        None,
        "a team of 0 ranks is impossible; it has 1 to 1024.",
    )


def test_the_order_of_use_is_kept() -> None:
    team = Native.create(2, AREA)
    with pytest.raises(RuntimeError, match="call meet first"):
        team.barrier()
    with pytest.raises(RuntimeError, match="rank 1 has not attached"):
        team.meet()
    with pytest.raises(RuntimeError, match="rank 2 is none of a team of 2"):
        team.area(2)
    with pytest.raises(RuntimeError, match="rank 0 is taken by process"):
        Native.attach(team.handle, 0)
    other = Native.attach(team.handle, 1)
    assert (other.rank, other.size, other.bytes_per_rank) == (1, 2, AREA)
    number = team.handle.split()[1]
    assert "llmserve-team" in os.readlink(f"/proc/self/fd/{number}")
    team.meet()
    assert not os.path.lexists(f"/proc/self/fd/{number}")  # mapped is enough from here on


def test_memory_is_taken_when_it_is_written() -> None:
    team = Native.create(2, 1 << 36)
    array(team, 1, "int8", 1 << 20)[:] = 1
    taken = os.stat(f"/proc/self/fd/{team.handle.split()[1]}").st_blocks * 512
    assert 1 << 20 <= taken < 1 << 21


def test_ranks_of_an_mpirun_form_a_team() -> None:
    assert sorted(mpirun(3, "tests.comm.test_team").split()) == ["rank0", "rank1", "rank2"]


def main() -> None:
    from llmserve.comm.mpi import MpiComm

    comm = MpiComm()
    team, reason = form_team(Native, comm.rank, comm.size, AREA, comm.all_gather_text)
    assert team is not None, reason
    assert count_together(team, 1000, 0.0) == 1000
    print(f"rank{comm.rank}\n", end="", flush=True)
    comm.close()


if __name__ == "__main__":
    sys.exit(main())
