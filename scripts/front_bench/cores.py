"""Which cores a process may use."""

from __future__ import annotations

import os


def stay_on(cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)


def shared_out() -> tuple[set[int], set[int]]:
    """One core for the front, the others for everybody else; where there is but one, it is everybody's."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}
