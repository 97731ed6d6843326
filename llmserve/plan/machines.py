"""What there is to run on: memory and its bandwidth, as data.

Memory is what a datasheet calls it, in powers of 1000. The memory that CUDA then shows is more than that on cards with
HBM (an H200 of 141 GB has 150 · 10⁹ bytes) and about that on others, so a plan errs on the safe side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmserve.errors import ConfigError

GB, TB = 10**9, 10**12


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU, of which each rank has one; or (`shared`) a host whose ranks share its memory and bandwidth."""

    name: str
    memory: int  # bytes
    bandwidth: int | None  # bytes a second; None: nobody said
    sm: int | None  # compute capability, 90 for 9.0; None: not one of NVIDIA's
    shared: bool
    source: str  # of the figures

    def memory_of_a_rank(self, ranks: int) -> int:
        return self.memory // ranks if self.shared else self.memory

    def bandwidth_of_a_rank(self, ranks: int) -> float | None:
        if self.bandwidth is None:
            return None
        return self.bandwidth / ranks if self.shared else float(self.bandwidth)


def _gpu(name: str, memory: int, bandwidth: int, sm: int, source: str) -> Machine:
    return Machine(name, memory, bandwidth, sm, False, f"NVIDIA, {source}")


GPUS = (
    _gpu("A10", 24 * GB, 600 * GB, 86, "A10 Tensor Core GPU datasheet"),
    _gpu("A30", 24 * GB, 933 * GB, 80, "A30 Tensor Core GPU datasheet"),
    _gpu("L4", 24 * GB, 300 * GB, 89, "L4 Tensor Core GPU datasheet"),
    _gpu("RTX-4090", 24 * GB, 1008 * GB, 89, "Ada GPU architecture whitepaper (384 bits of GDDR6X at 21 Gbit/s)"),
    _gpu("RTX-5090", 32 * GB, 1792 * GB, 120, "RTX Blackwell architecture whitepaper (512 bits of GDDR7 at 28 Gbit/s)"),
    _gpu("A100-40GB", 40 * GB, 1555 * GB, 80, "A100 Tensor Core GPU datasheet (40 GB)"),
    _gpu("A40", 48 * GB, 696 * GB, 86, "A40 datasheet"),
    _gpu("L40S", 48 * GB, 864 * GB, 89, "L40S datasheet"),
    _gpu("A100-80GB", 80 * GB, 2039 * GB, 80, "A100 Tensor Core GPU datasheet (80 GB, SXM)"),
    _gpu("A100-80GB-PCIe", 80 * GB, 1935 * GB, 80, "A100 Tensor Core GPU datasheet (80 GB, PCIe)"),
    _gpu("H100", 80 * GB, 3350 * GB, 90, "H100 Tensor Core GPU datasheet (SXM)"),
    _gpu("H100-PCIe", 80 * GB, 2 * TB, 90, "H100 Tensor Core GPU datasheet (PCIe)"),
    _gpu("H100-NVL", 94 * GB, 3900 * GB, 90, "H100 NVL datasheet"),
    _gpu("H200", 141 * GB, 4800 * GB, 90, "H200 Tensor Core GPU datasheet (SXM and NVL)"),
    _gpu("B200", 180 * GB, 8 * TB, 100, "DGX B200 datasheet (an eighth of 1,440 GB and 64 TB/s)"),
)
"""By memory; a plan proposes the first that is large enough."""


def find_gpu(name: str) -> Machine:
    """`h200`, `NVIDIA H200` or `A100 80GB` → the one that is meant. ConfigError names those that there are."""
    wanted = _letters(name)
    exact = [gpu for gpu in GPUS if _letters(gpu.name) == wanted]
    found = exact or [gpu for gpu in GPUS if wanted and _letters(gpu.name).startswith(wanted)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(gpu.name for gpu in found or GPUS)
    problem = "may be any of these" if found else "is none that llmserve knows"
    advice = "say which" if found else "name one of these, or `cpu`, or give --memory and --bandwidth"
    raise ConfigError(f"--gpu {name} {problem} ({known}); {advice}.")


def _letters(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())
