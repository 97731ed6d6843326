"""What this machine can do at most, for telling how near to it the kernels come: bytes read in order, dot products."""

from __future__ import annotations

import mmap
from typing import Literal

from llmserve.ops.cpu import instruction_sets, load_kernels


def read_bandwidth(cores: list[int], size: int = 512 << 20, rounds: int = 5) -> float:
    """Bytes per second that threads on `cores` read together, the best of `rounds`; `size` is far beyond any cache."""
    kernels, best = load_kernels(), instruction_sets()[0].name
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1  # or all of it would be the one page of zeros
        address = _address_of(memory)
        return kernels.read_bandwidth(kernels.Pool(cores, len(cores)), best, address, size, rounds)


def peak(cores: list[int], kind: Literal["s8", "u4", "bf16", "f32"], rounds: int = 5) -> float:
    """Operations per second, two to a multiply-add, of threads on `cores` that never touch memory.

    s8: int8 activations times weights of 8 bits; u4: times weights of 4 bits, which fewer instructions may do.
    """
    kernels, best = load_kernels(), instruction_sets()[0].name
    return kernels.peak(kernels.Pool(cores, len(cores)), best, kind, rounds=rounds)


def _address_of(memory: mmap.mmap) -> int:
    from ctypes import addressof, c_char

    return addressof(c_char.from_buffer(memory))
