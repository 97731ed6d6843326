"""What the machine can do at most: read bandwidth and rates of products, from llmserve's kernel library.

    python -m cpu_bench.ceilings        # a worker, see cpu_bench.lines

The one place that knows how the library is asked.
"""

from __future__ import annotations

import os

from cpu_bench.lines import Commands, serve

UNITS = {"read": "GB/s", "int8": "GOP/s", "int4": "GOP/s", "bf16": "GFLOP/s"}
READ_BYTES = 512 << 20


# Before any pool of threads binds this one to a core of its own.
CORES = sorted(os.sched_getaffinity(0))


def measure(threads: int) -> dict[str, float]:
    """`read`, `int8`, `int4` and `bf16` on all threads, and with a `_1` on one: bytes or operations per second."""
    from llmserve.ops.cpu.ceilings import peak, read_bandwidth

    cores = CORES[:threads]
    values: dict[str, float] = {}
    for on, suffix in ((cores[:1], "_1"), (cores, "")):
        values["read" + suffix] = read_bandwidth(on, READ_BYTES)
        values["int8" + suffix] = peak(on, "s8")
        values["int4" + suffix] = peak(on, "u4")
        values["bf16" + suffix] = peak(on, "bf16")
    return values


def reading(threads: int) -> float:
    """Bytes per second, now, on all threads."""
    from llmserve.ops.cpu.ceilings import read_bandwidth

    return read_bandwidth(CORES[:threads], READ_BYTES)


def load() -> tuple[None, Commands]:
    from llmserve.ops.cpu import load_kernels

    load_kernels()
    return None, {"measure": measure, "reading": reading}


if __name__ == "__main__":
    serve(load)
