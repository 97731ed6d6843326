"""A plan: what an engine of a model needs, and whether and how it fits each of some machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llmserve.checkpoint.ranks import Ranks, divide, divided
from llmserve.config import BuildConfig, DType, ModelConfig
from llmserve.errors import BuildError, CheckpointError, ConfigError
from llmserve.plan.change import kinds_of_change
from llmserve.plan.fit import Fit, fit, readable
from llmserve.plan.machines import GB, Machine
from llmserve.plan.native import native_needs
from llmserve.plan.needs import Needs
from llmserve.plan.parameters import num_weights
from llmserve.plan.subject import Subject
from llmserve.plan.tensorrt_llm import refusal, tensorrt_llm_needs
from llmserve.plan.wish import Wish


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    model: ModelConfig
    wish: Wish  # with what the checkpoint decides
    dtype: DType
    group_size: int | None
    num_weights: int
    needs: Needs
    fits: tuple[Fit, ...]  # by machine


def make_plan(subject: Subject, wish: Wish, machines: Sequence[Machine], *, advise: bool = True) -> Plan:
    """`advise`: say what would fit where it does not; of several machines, most of which are too small, for the largest
    of those. Raises BuildError or ConfigError where it cannot be built.
    """
    wanted, longest = wish.engine.max_model_len, subject.model.max_position
    if wanted is not None and wanted > longest:
        raise ConfigError(
            f"{wish.length_told.format(wanted)} exceeds the {longest} positions this model was made for; lower it."
        )
    ranks, needs = _needs(subject, wish)
    wish = replace(wish, build=ranks.config)
    fits = [_fit(subject, wish, needs, machine) for machine in machines]
    small = [index for index, found in enumerate(fits) if not found.fits and not _refused(found.machine, wish)]
    if advise and 2 * len(small) > len(fits):
        largest = max(small, key=lambda index: fits[index].machine.memory)
        fits[largest] = replace(fits[largest], advice=tuple(_advice(subject, wish, fits[largest])))
    return Plan(
        subject.name, subject.model, wish, ranks.dtype, ranks.group_size, num_weights(ranks.models[0]), needs,
        tuple(fits),
    )  # fmt: skip


def _needs(subject: Subject, wish: Wish) -> tuple[Ranks, Needs]:
    if wish.backend == "native":
        ranks = _divided(subject, wish.build)
        return ranks, native_needs(ranks, wish.engine)
    if subject.manifest is not None:
        raise ConfigError("this is a native engine; give the checkpoint to plan one of TensorRT-LLM.")
    if subject.given is not None:
        raise ConfigError(
            "a plan for TensorRT-LLM is made of a checkpoint of 16-bit weights, and this one is int4; use the model's "
            "BF16 or F16 checkpoint."
        )
    dtype = _dtype(subject, wish.build)
    # It rounds by itself, so what is divided is what lies in the checkpoint.
    ranks = divide(subject.model, BuildConfig(tp_size=wish.build.tp_size), dtype, None)
    return replace(ranks, config=wish.build), tensorrt_llm_needs(ranks, wish.build, wish.engine)


def _divided(subject: Subject, build: BuildConfig) -> Ranks:
    if subject.manifest is not None:
        return divided(subject.manifest)
    return divide(subject.model, build, _dtype(subject, build), subject.given)


def _dtype(subject: Subject, build: BuildConfig) -> DType:
    if build.dtype != "auto":
        return build.dtype
    if subject.dtype is None:
        raise CheckpointError(
            "config.json does not say the weights' dtype, and there are no weights to see it from; choose one with "
            "--dtype float32, bfloat16 or float16."
        )
    return subject.dtype


def _fit(subject: Subject, wish: Wish, needs: Needs, machine: Machine) -> Fit:
    found = fit(
        needs,
        machine,
        wanted=wish.engine.max_model_len,
        longest=subject.model.max_position,
        max_num_seqs=wish.engine.max_num_seqs,
        utilization=wish.utilization,
    )
    if (refused := _refused(machine, wish)) is not None:
        return replace(found, fits=False, verdict=refused, max_model_len=0, at=())
    return found


def _refused(machine: Machine, wish: Wish) -> str | None:
    return refusal(machine, wish.build.quant) if wish.backend == "tensorrt-llm" else None


def _advice(subject: Subject, wish: Wish, unfit: Fit) -> Iterator[str]:
    """The least change of each kind with which it would fit, found by trying; and never nothing."""
    machine, changed = unfit.machine, False
    for kind in kinds_of_change(wish, machine, built=subject.manifest is not None):
        for change in kind:
            try:
                found = make_plan(subject, change.wish, [change.machine], advise=False).fits[0]
            except (BuildError, ConfigError):
                continue  # it cannot be cut or stored like that
            if found.fits:
                yield change.text(found)
                changed = True
                break
    if machine.shared:
        yield f"a host with {readable(unfit.needed)} would fit (--memory {unfit.needed / GB:g}GB)"
    elif not changed:
        yield f"GPUs with {readable(unfit.needed)} each would fit"
