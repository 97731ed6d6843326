"""What every rank says of itself before TensorRT-LLM talks between ranks, and what may not differ.

One rank that does not fit would leave all others waiting inside a collective, so whatever can be compared is compared
here. Values and sentences only; how they travel is `ranks`' business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmserve.checkpoint.disk import readable_bytes
from llmserve.config import TensorRTLLMFacts
from llmserve.tensorrt_llm.device import Gpu


@dataclass(frozen=True, slots=True)
class Place:
    """Of a rank that has looked at nothing but its engine directory."""

    host: str
    manifest_sha256: str
    problem: str = ""  # why it cannot serve this engine, as a sentence

    def encode(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a rank that could start TensorRT-LLM."""

    host: str
    version: str = ""  # of tensorrt_llm
    tensorrt_version: str = ""
    gpu: Gpu | None = None
    problem: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))


def read_places(texts: Sequence[str]) -> list[Place]:
    return [Place(**json.loads(text)) for text in texts]


def read_facts(texts: Sequence[str]) -> list[Facts]:
    values = [json.loads(text) for text in texts]
    return [Facts(**{**value, "gpu": value["gpu"] and Gpu(**value["gpu"])}) for value in values]


def problem_of(problems: Sequence[str]) -> str:
    """One sentence for the first of all ranks' problems, "" where there is none; it says whose unless all have one."""
    first = next(((rank, text) for rank, text in enumerate(problems) if text), None)
    if first is None:
        return ""
    rank, text = first
    return text if all(problems) else f"rank {rank}: {text}"


def compare_places(places: Sequence[Place]) -> str:
    """What is wrong in one sentence; "": nothing."""
    if problem := problem_of([place.problem for place in places]):
        return problem
    for rank, place in enumerate(places):
        if place.manifest_sha256 != places[0].manifest_sha256:
            return (
                f"rank {rank} (on {place.host}) has another engine.json than rank 0 (on {places[0].host}); copy the "
                "engine to every host again."
            )
    return ""


def compare_facts(ranks: Sequence[Facts], engine: TensorRTLLMFacts, shard_sizes: Sequence[int]) -> str:
    """As `compare_places`. `shard_sizes`: bytes of each rank's engine, which all go onto its GPU."""
    if problem := problem_of([facts.problem for facts in ranks]):
        return problem
    seen: dict[tuple[str, str], int] = {}
    for rank, (facts, size) in enumerate(zip(ranks, shard_sizes, strict=True)):
        gpu = facts.gpu
        assert gpu is not None
        for what, here, there in (
            ("tensorrt_llm", facts.version, engine.version),
            ("TensorRT", facts.tensorrt_version, engine.tensorrt_version),
        ):
            if here != there:
                return (
                    f"rank {rank} (on {facts.host}) has {what} {here}, and the engine was built with {there}; install "
                    "that, or build the engine again."
                )
        if gpu.sm != engine.sm:
            return (
                f"rank {rank} (on {facts.host}) has a GPU of compute capability {_dotted(gpu.sm)} ({gpu.name}), and "
                f"the engine was built for {_dotted(engine.sm)} ({engine.gpu}); build it on such a GPU."
            )
        if (other := seen.setdefault((facts.host, gpu.uuid), rank)) != rank:
            return f"ranks {other} and {rank} would share a GPU of {facts.host} ({gpu.name}); give each one of its own."
        if gpu.free < size:
            return (
                f"rank {rank}'s GPU on {facts.host} has {readable_bytes(gpu.free)} free of "
                f"{readable_bytes(gpu.total)}, and its engine alone takes {readable_bytes(size)}; stop what else uses "
                "that GPU, or build the engine for more ranks."
            )
    return ""


def _dotted(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"
