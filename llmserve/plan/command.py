"""`llmserve plan`: from what was asked on the command line to a plan on the terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmserve.cli_options import BuildOptions, MachineOptions, PlannedOptions
from llmserve.config import BuildConfig, Device, parse_bytes, validated
from llmserve.errors import ConfigError
from llmserve.plan.machines import GPUS, Machine, find_gpu
from llmserve.plan.plan import make_plan
from llmserve.plan.report import print_plan
from llmserve.plan.subject import open_subject
from llmserve.plan.wish import BACKENDS, Wish
from llmserve.runtime.kv_cache import available_memory

LIMITS = {"max_batch_size": "max_num_seqs", "max_num_tokens": "max_num_batched_tokens", "max_seq_len": "max_model_len"}
"""What TensorRT-LLM's builder calls what `llmserve run` is told."""

WITHOUT_BYTES = ("max_input_len", "timing_cache", "calib_dataset", "trust_remote_code")
"""Settings of its builder that take no memory of their own: prompts are within max_seq_len."""

DEFAULT_MAX_NUM_TOKENS = 8192
"""Of its builder; of the native engine it is EngineConfig's."""


def plan_engine(
    given: str,
    revision: str | None,
    settings: dict[str, Any],
    build: BuildOptions,
    planned: PlannedOptions,
    machine: MachineOptions,
    backend: str | None,
    *,
    as_json: bool,
) -> None:
    """`settings`: of a file; flags win. Raises an LlmserveError in one sentence."""
    subject = open_subject(given, revision)
    if subject.manifest is not None:
        _check_built(build, settings)
    wish = make_wish(settings, build, planned, backend, machine.memory_utilization)
    asked = subject.manifest.device if subject.manifest else build.values()["device"] or settings.get("device")
    machines = machines_of(machine, "cuda" if wish.backend == "tensorrt-llm" else asked)
    device: Device = "cpu" if machines[0].shared else "cuda"
    wish = replace(wish, build=wish.build.model_copy(update={"device": device}))
    print_plan(make_plan(subject, wish, machines, advise=len(machines) == 1), as_json=as_json)


def make_wish(
    settings: dict[str, Any], build: BuildOptions, planned: PlannedOptions, backend: str | None, utilization: float
) -> Wish:
    """`settings`: of a variant in a file; limits of TensorRT-LLM's builder are those of what is served."""
    values = settings | {name: value for name, value in build.values().items() if value is not None}
    chosen = values.pop("backend", "native") if backend is None else backend
    if chosen not in BACKENDS:
        raise ConfigError(f"backend {chosen!r:.100} is none that llmserve has; use {' or '.join(BACKENDS)}.")
    limits: dict[str, Any] = {}
    if chosen == "tensorrt-llm":
        limits = {"max_num_batched_tokens": DEFAULT_MAX_NUM_TOKENS}
        limits |= {ours: values.pop(theirs) for theirs, ours in LIMITS.items() if theirs in values}
        values = {name: value for name, value in values.items() if name not in WITHOUT_BYTES}
    if not 0 < utilization <= 1:
        raise ConfigError(f"--memory-utilization {utilization} is not a share; give a number above 0 and up to 1.")
    return Wish(chosen, validated(BuildConfig, values), planned.config(limits), utilization)


def machines_of(options: MachineOptions, device: str | None) -> tuple[Machine, ...]:
    """What is planned for: the machine that is named or described, or else all GPUs.

    `device`: what the engine is for; None: whatever the machine has.
    """
    memory = None if options.memory is None else parse_bytes(options.memory)
    bandwidth = None if options.bandwidth is None else _parse_bandwidth(options.bandwidth)
    if options.gpu is None and memory is not None:
        return (Machine("given", memory, bandwidth, None, device != "cuda", "--memory"),)
    if options.gpu is None and bandwidth is not None:
        raise ConfigError("--bandwidth is of a machine; name one with --gpu, or give its --memory too.")
    if options.gpu is None and device != "cpu":
        return GPUS
    if options.gpu in (None, "cpu"):
        if device == "cuda":
            raise ConfigError("--gpu cpu is not what an engine for --device cuda runs on; name a GPU.")
        free = memory or available_memory()
        return (Machine("cpu", free, bandwidth, None, True, "free here now" if memory is None else "--memory"),)
    assert options.gpu is not None
    gpu = find_gpu(options.gpu)
    if device == "cpu":
        raise ConfigError(f"--gpu {gpu.name} is not what an engine for --device cpu runs on; use --gpu cpu.")
    return (replace(gpu, memory=memory or gpu.memory, bandwidth=bandwidth or gpu.bandwidth),)


def _check_built(build: BuildOptions, settings: dict[str, Any]) -> None:
    given = [name for name, value in build.values().items() if value is not None]
    if given or settings:
        flag = f"--{given[0].replace('_', '-')}" if given else "--config"
        raise ConfigError(f"{flag} is of a build, and this engine is built already; leave it away.")


def _parse_bandwidth(text: str) -> int:
    try:
        return parse_bytes(text.strip().removesuffix("/s"))
    except ConfigError:
        raise ConfigError(f"{text!r} is not a bandwidth; write it like 60GB/s or 4.8TB/s.") from None
