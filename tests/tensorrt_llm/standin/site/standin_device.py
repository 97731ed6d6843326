"""What `torch.cuda` says where there is no GPU: the devices of the settings. torch is changed once it is loaded."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from standin_control import settings


def stand_in_for_cuda() -> None:
    if "torch" in sys.modules:
        _change(sys.modules["torch"])
    elif not any(isinstance(each, _AfterTorch) for each in sys.meta_path):
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            _change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def _change(torch: Any) -> None:
    own, cuda, current = settings(), torch.cuda, [0]

    def properties(device: Any = None) -> SimpleNamespace:
        index = current[0] if device is None else device
        major, minor = own.sm
        return SimpleNamespace(
            name=own.device_name, major=major, minor=minor, total_memory=own.total_memory, uuid=f"GPU-{index}"
        )

    def set_device(device: int) -> None:
        if not 0 <= device < own.devices:
            raise RuntimeError(f"CUDA error: invalid device ordinal {device}")
        current[0] = device

    cuda.is_available = lambda: own.devices > 0
    cuda.device_count = lambda: own.devices
    cuda.set_device = set_device
    cuda.current_device = lambda: current[0]
    cuda.get_device_properties = properties
    cuda.get_device_name = lambda device=None: own.device_name
    cuda.get_device_capability = lambda device=None: own.sm
    cuda.mem_get_info = lambda device=None: (own.free_memory, own.total_memory)
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = lambda: None
    torch.version.cuda = "13.0"
