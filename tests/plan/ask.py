"""Plans, with what a test does not care about filled in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from llmserve.config import BuildConfig, EngineConfig
from llmserve.models import read_config
from llmserve.plan.fit import Fit
from llmserve.plan.machines import GPUS, Machine
from llmserve.plan.needs import Needs
from llmserve.plan.plan import Plan, make_plan
from llmserve.plan.subject import Subject
from llmserve.plan.wish import Backend, Wish

PLENTY = Machine("plenty", 10**15, 10**12, None, False, "a test")


@cache
def real_configs() -> dict[str, dict[str, Any]]:
    """The config.json of real models, with where they are from and how many weights the hub says they have."""
    return json.loads((Path(__file__).parent / "real_configs.json").read_text("utf-8"))


def real(name: str) -> Subject:
    config = real_configs()[name]["config"]
    return Subject(name, read_config(config), config.get("torch_dtype"), None, None)


def ask(
    subject: Subject, *machines: Machine, backend: Backend = "native", engine: dict[str, Any] | None = None,
    advise: bool = False, utilization: float = 1.0, **build: Any,
) -> Plan:  # fmt: skip
    wish = Wish(backend, BuildConfig(**build), EngineConfig(**(engine or {})), utilization)
    return make_plan(subject, wish, machines or (PLENTY,), advise=advise)


def needs(subject: Subject, **asked: Any) -> Needs:
    return ask(subject, **asked).needs


def on(subject: Subject, gpu: str, **asked: Any) -> Fit:
    (machine,) = [each for each in GPUS if each.name == gpu]
    return ask(subject, machine, **asked).fits[0]
