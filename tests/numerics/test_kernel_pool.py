"""Threads of the CPU kernels: as many as one likes, for steps as short as one likes, with the same results."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from torch import Tensor

from llmserve.scheduler.plan import Chunk
from tests.numerics.kernel_program import (
    SETS,
    Weights,
    at,
    convert,
    every_set,
    expected_rows,
    handle,
    kernels,
    multiply,
    new_rows,
    random_activations,
    random_matrix,
    same_bits,
    words,
)


class Short:
    """Two instructions of a few items each: a step is hardly more than its meetings."""

    def __init__(self, pool: object, tokens: int = 3) -> None:
        self.x, self.rows, self.w = (
            random_activations(tokens, 64, 1),
            new_rows("s8", tokens, 64),
            random_matrix(Weights("u8"), 64, 64, 2),
        )
        self.y = torch.zeros(tokens, 64)
        self.program = kernels.Program(
            pool, SETS[0], max_tokens=tokens, rows=1, columns=1, num_blocks=1, block_size=16, vocab_size=1
        )
        self.program.convert(source=at(self.x), stride=64, size=64, out=self.rows.handle)
        self.program.gemm(x=self.rows.handle, w=handle(self.w), bias=0, y=at(self.y), stride=64)
        self.plan = words(Chunk(0, 0, 0, (0,) * tokens, (0,), 0))

    def step(self) -> Tensor:
        self.program.begin(self.plan)
        self.program.run()
        return self.y


@every_set
def test_more_threads_than_processors_and_than_work(isa: str) -> None:
    w, x = random_matrix(Weights("u4", 32), 70, 96, 1), random_activations(17, 96, 2)
    one = multiply(isa, 1, convert(isa, 1, x, "s8"), w)
    for threads in (2, (os.cpu_count() or 1) + 1, 23):
        assert same_bits(multiply(isa, threads, convert(isa, threads, x, "s8"), w), one)
        assert same_bits(multiply(isa, threads, expected_rows("s8", x), w), one)


@pytest.mark.parametrize("threads, steps", [(1, 10_000), (2, 10_000), (5, 1_000)])
@pytest.mark.timeout(60)
def test_many_short_steps(threads: int, steps: int) -> None:
    """Nobody oversleeps a bell, and nobody answers one twice."""
    short = Short(kernels.Pool([], threads))
    right = short.step().clone()
    for i in range(steps):
        short.y.fill_(i)
        assert torch.equal(short.step(), right), i


@pytest.mark.parametrize("threads, steps", [(1, 5_000), (2, 5_000), (5, 500)])
@pytest.mark.timeout(60)
def test_steps_in_two_halves(threads: int, steps: int) -> None:
    """Now and then in one: both ways may take turns, and each waits for all of its own."""
    short = Short(kernels.Pool([], threads))
    right = short.step().clone()
    for i in range(steps):
        short.y.fill_(i)
        short.program.begin(short.plan)
        if i % 3:
            before = time.monotonic()
            short.program.start()
            assert not short.program.finish()
            assert before <= short.program.ended <= time.monotonic()
        else:
            short.program.run()
        assert torch.equal(short.y, right), i


@pytest.mark.timeout(60)
def test_what_was_started_is_waited_for_when_its_program_goes() -> None:
    for _ in range(100):
        short = Short(kernels.Pool([], 2))
        short.program.begin(short.plan)
        short.program.start()
        del short.program  # and only then what it computes with


@pytest.mark.timeout(60)
def test_who_starts_a_step_is_bound_no_longer() -> None:
    """The pool's own thread takes its place."""
    cores, seen = os.sched_getaffinity(0), []

    def work() -> None:
        short = Short(kernels.Pool([min(cores)], 1))
        seen.append(os.sched_getaffinity(0))
        short.program.begin(short.plan)
        short.program.start()
        seen.append(os.sched_getaffinity(0))
        short.program.finish()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{min(cores)}, cores]


@pytest.mark.timeout(60)
def test_programs_share_threads_and_threads_end() -> None:
    """In turn, bound to processors or not; and a pool that nobody holds any more leaves no thread behind."""

    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    before, mine = threads(), os.sched_getaffinity(0)  # others' threads, of tests before, may still end meanwhile
    for cpus in ([], sorted(mine)[:2]):
        done: list[Tensor] = []

        def work(cpus: list[int] = cpus, done: list[Tensor] = done) -> None:  # of its own, as binding would last
            pool = kernels.Pool(cpus, 2)
            programs = [Short(pool, tokens) for tokens in (1, 3, 16)]
            for _ in range(50):
                done[:] = [p.step().clone() for p in programs]
            programs[0].program.begin(programs[0].plan)
            programs[0].program.start()
            programs[0].program.finish()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert same_bits(
            done[0],
            multiply(
                SETS[0], 1, expected_rows("s8", random_activations(1, 64, 1)), random_matrix(Weights("u8"), 64, 64, 2)
            ),
        )
    deadline = time.monotonic() + 10
    while threads() - before and time.monotonic() < deadline:  # a thread that was joined may be listed a while yet
        time.sleep(0.01)
    assert not threads() - before
    assert os.sched_getaffinity(0) == mine


def test_a_pool_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="thread"):
        kernels.Pool([], 0)


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mmx") as caught:
        kernels.Program(
            kernels.Pool([], 1), "mmx", max_tokens=1, rows=1, columns=1, num_blocks=1, block_size=16, vocab_size=1
        )
    assert all(isa in str(caught.value) for isa in SETS)
