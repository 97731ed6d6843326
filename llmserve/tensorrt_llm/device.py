"""The GPU of one rank: what an engine is tied to, and whether there is room on it."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    sm: int  # its compute capability, as 90 for 9.0
    uuid: str
    free: int  # bytes
    total: int


def use_gpu(index: int) -> Gpu:
    """Makes this host's GPU `index` the process's own. ConfigError where there is none."""
    from torch import cuda  # slow to import, and only wanted here

    if not cuda.is_available():
        raise ConfigError("no GPU is usable here, and engines of tensorrt-llm run on NVIDIA GPUs only.")
    if index >= cuda.device_count():
        raise ConfigError(
            f"rank {index} of this host has no GPU of its own ({cuda.device_count()} are here); start at most one rank "
            "per GPU."
        )
    cuda.set_device(index)
    properties = cuda.get_device_properties(index)
    free, total = cuda.mem_get_info(index)
    sm = 10 * properties.major + properties.minor
    return Gpu(name=properties.name, sm=sm, uuid=str(properties.uuid), free=free, total=total)
