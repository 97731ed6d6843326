"""The CPU's operations: a model recorded once into a program, which C++ kernels run for every step (csrc/).

The kernels are compiled at installation where there is a C++ compiler. Without them whoever chooses the device table
takes the reference, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One that this processor can run and that there are kernels for."""

    name: str
    fast_s8: bool  # multiplies int8 and int4 weights by int8 faster than by fp32
    fast_bf16: bool  # has dot products of bf16


def load_kernels() -> Any:
    """The extension module. ImportError, with the reason, where it was not built or does not fit this Python."""
    return import_module("llmserve.ops.cpu.kernels")


def instruction_sets() -> list[InstructionSet]:
    """Best first. ImportError as `load_kernels`."""
    return [InstructionSet(**found) for found in load_kernels().instruction_sets()]
