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
from llmserve.plan.subject import Subject, open_subject
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
    machines = machines_of(machine, *_device(subject, wish, build, settings))
    device: Device = "cpu" if machines[0].shared else "cuda"
    wish = replace(wish, build=wish.build.model_copy(update={"device": device}))
    print_plan(make_plan(subject, wish, machines), as_json=as_json)


def _device(subject: Subject, wish: Wish, build: BuildOptions, settings: dict[str, Any]) -> tuple[Device | None, str]:
    """What the engine is for, None: whatever the machine is; and the words for an engine like that."""
    if subject.manifest is not None:
        return subject.manifest.device, f"this engine, built for {subject.manifest.device},"
    if wish.backend == "tensorrt-llm":
        return "cuda", "an engine of TensorRT-LLM"
    if (flag := build.values()["device"]) is not None:
        return flag, f"an engine for --device {flag}"
    if (said := settings.get("device")) is not None:
        return said, f"an engine for `device: {said}` of --config"
    return None, "an engine"


def make_wish(
    settings: dict[str, Any], build: BuildOptions, planned: PlannedOptions, backend: str | None, utilization: float
) -> Wish:
    """`settings`: of a variant in a file; limits of TensorRT-LLM's builder are those of what is served."""
    flags = {name: value for name, value in build.values().items() if value is not None}
    values, in_file = settings | flags, settings.keys() - flags
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
    from_file = planned.max_model_len is None and "max_model_len" in limits
    told = "max_seq_len {} of --config" if from_file else "--max-model-len {}"
    return Wish(chosen, validated(BuildConfig, values, in_file), planned.config(limits), utilization, told)


def machines_of(options: MachineOptions, device: Device | None, engine: str) -> tuple[Machine, ...]:
    """What is planned for: the machine that is named or described, or else all GPUs.

    `device`: what the engine is for; None: whatever the machine has. `engine`: words for an engine like that.
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
            raise ConfigError(f"--gpu cpu is not what {engine} runs on; name a GPU.")
        free = memory or available_memory()
        return (Machine("cpu", free, bandwidth, None, True, "free here now" if memory is None else "--memory"),)
    assert options.gpu is not None
    gpu = find_gpu(options.gpu)
    if device == "cpu":
        raise ConfigError(f"--gpu {gpu.name} is not what {engine} runs on; use --gpu cpu.")
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
