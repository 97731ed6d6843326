"""What could be changed where an engine does not fit: other lengths, other weights, more ranks, a larger GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llmserve.config import BuildConfig, Frozen
from llmserve.plan.fit import Fit, readable
from llmserve.plan.machines import GPUS, Machine
from llmserve.plan.wish import Wish

TP_SIZES = (2, 4, 8, 16)

Settings = TypeVar("Settings", bound=Frozen)


@dataclass(frozen=True, slots=True)
class Change:
    wish: Wish
    machine: Machine
    text: Callable[[Fit], str]  # of what is then found


def kinds_of_change(wish: Wish, machine: Machine, *, built: bool) -> Iterator[list[Change]]:
    """Kinds, and in each the least change first. `built`: weights and ranks are as they are."""
    engine, build = wish.engine, wish.build
    if engine.max_model_len is not None:
        shorter = replace(wish, engine=_with(engine, max_model_len=None))
        yield [Change(shorter, machine, lambda fit: f"--max-model-len {fit.max_model_len} would fit")]
    if engine.kv_cache_dtype != "int8":
        small = replace(wish, engine=_with(engine, kv_cache_dtype="int8"))
        yield [Change(small, machine, lambda fit: "--kv-cache-dtype int8 would fit")]
    if not built:
        smaller: list[BuildConfig] = {"none": [_with(build, quant="int8"), _with(build, quant="int4")],
                                      "int8": [_with(build, quant="int4")]}.get(build.quant, [])  # fmt: skip
        yield [_built(wish, machine, each, f"--quant {each.quant} would fit") for each in smaller]
        if not machine.shared:  # or more ranks would share the same memory
            yield [
                _built(wish, machine, _with(build, tp_size=n), f"--tp-size {n} would fit, on as many {machine.name}")
                for n in TP_SIZES
                if n > build.tp_size
            ]
    if machine in GPUS:
        yield [
            Change(wish, gpu, lambda fit: f"--gpu {fit.machine.name} would fit ({readable(fit.machine.memory)} each)")
            for gpu in GPUS
            if gpu.memory > machine.memory
        ]


def _built(wish: Wish, machine: Machine, build: BuildConfig, text: str) -> Change:
    return Change(replace(wish, build=build), machine, lambda fit: text)


def _with(config: Settings, **change: Any) -> Settings:
    return config.model_copy(update=change)
