"""A LoRA adapter (Hu et al. 2021) as PEFT saves it, merged into a checkpoint's matrices as they are read: W + s·B·A.

The sum is made in fp32, of the rows and columns that are asked for. What an adapter's config asks for and nobody here
computes is an error that names it, and so is every tensor that finds no matrix. Knows nothing of families: an adapter
names modules as the checkpoint does.

Source: PEFT, `LoraConfig` and `tuners/lora`.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmserve.checkpoint.folder import ADAPTER_FORMS, InFile, Stored, open_tensors, read_json
from llmserve.checkpoint.int4_tensors import Int4Tensor
from llmserve.checkpoint.source import Checkpoint, headers_digest
from llmserve.checkpoint.tensor_file import TensorSpec
from llmserve.errors import CheckpointError

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"

_IMPLEMENTED = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "target_modules",
                "peft_type", "init_lora_weights", "bias"}  # fmt: skip
_DOES_NOT_COMPUTE = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
"""Keys that say how an adapter was trained, or what its tensors show anyway."""


@dataclass(frozen=True, eq=False)
class Merged:
    """A matrix with an adapter's product added: a [r, inputs], b [outputs, r]."""

    base: Stored
    a: InFile
    b: InFile
    scale: float
    transposed: bool  # the file has the matrix as [inputs, outputs] (GPT-2)

    @property
    def spec(self) -> TensorSpec:
        return self.base.spec

    def rows(self, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """As the checkpoint's own, but fp32."""
        first, last = cols or (0, self.spec.shape[1])
        rank = self.a.spec.shape[0]
        if self.transposed:
            added = _finite(self.a, 0, rank, (start, stop)).T @ _finite(self.b, first, last).T
        else:
            added = _finite(self.b, start, stop) @ _finite(self.a, 0, rank, (first, last))
        return self.base.rows(start, stop, cols).float() + self.scale * added


def _finite(tensor: InFile, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
    values = tensor.rows(start, stop, cols).float()
    if not values.isfinite().all():
        raise CheckpointError(f"the adapter's {tensor.name} holds NaN or infinity; the adapter is damaged.")
    return values


def merge(checkpoint: Checkpoint, adapter: str | Path) -> Checkpoint:
    """`checkpoint` with the adapter of this folder added to its matrices. Raises CheckpointError, one sentence."""
    folder = Path(adapter).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"{adapter} is not a folder; give --lora the folder of a PEFT adapter.")
    text, config = read_json(
        folder / "adapter_config.json", f"{folder} is not a PEFT adapter: it has no adapter_config.json."
    )
    _check_config(config)
    tensors = open_tensors(folder, ADAPTER_FORMS)
    if tensors is None:
        names = " nor ".join(form.single for form in ADAPTER_FORMS)
        raise CheckpointError(f"{folder} has an adapter_config.json but no weights: neither {names}.")
    modules = _modules(tensors)
    _check_targets(config, modules)
    merged: dict[str, Stored] = {}
    for module in modules:
        name = _weight_name(checkpoint, module)
        merged[name] = _merged(checkpoint.tensor(name), name, module, tensors, config)
    digest = hashlib.sha256(text + headers_digest(tensors)).digest()
    return checkpoint.changed(merged, f"{checkpoint.name}+{folder.name}", digest)


def _check_config(config: dict[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise _not_implemented("peft_type", kind, "LORA")
    if config.get("use_dora"):
        raise _not_implemented("use_dora", config["use_dora"], "LoRA without DoRA")
    if saved := config.get("modules_to_save"):
        raise _not_implemented("modules_to_save", saved, "adapters of LoRA matrices alone")
    if (bias := config.get("bias", "none")) != "none":
        raise _not_implemented("bias", bias, "'none'")
    start = config.get("init_lora_weights", True)
    if start not in (True, False, None, "gaussian", "eva", "orthogonal"):  # the others change the base model
        raise _not_implemented("init_lora_weights", start, "adapters to an unchanged base model")
    for key, value in config.items():
        if key not in _IMPLEMENTED | _DOES_NOT_COMPUTE and value not in (None, False, {}, [], ""):
            raise CheckpointError(
                f"adapter_config.json says {key}={value!r:.200}, of which llmserve does not know whether it changes "
                "the computation; merge the adapter with PEFT, or remove the key if it does not."
            )


def _modules(tensors: dict[str, InFile]) -> list[str]:
    """What the adapter adds to. CheckpointError for a tensor that is no half of a pair."""
    modules = sorted(
        name[len(_PREFIX) : -len(_A)] for name in tensors if name.startswith(_PREFIX) and name.endswith(_A)
    )
    expected = {f"{_PREFIX}{module}{half}" for module in modules for half in (_A, _B)}
    if missing := sorted(expected - tensors.keys()):
        raise CheckpointError(f"the adapter lacks {missing[0]}; copy or download it again.")
    if others := sorted(tensors.keys() - expected):
        raise CheckpointError(
            f"the adapter holds {others[0]:.200} ({len(others)} such in all), which llmserve does not merge; it merges "
            f"pairs of {_PREFIX}….lora_A.weight and lora_B.weight."
        )
    if not modules:
        raise CheckpointError("the adapter holds no tensors; copy or download it again.")
    return modules


def _check_targets(config: dict[str, Any], modules: list[str]) -> None:
    """An adapter that names a module and has nothing for it is not whole."""
    targets = config.get("target_modules")
    for target in targets if isinstance(targets, list) else []:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise CheckpointError(
                f"adapter_config.json names {target!r:.200} in target_modules, but the adapter holds no tensors for "
                "it; copy or download it again."
            )


def _weight_name(checkpoint: Checkpoint, module: str) -> str:
    """The matrix of a module. Some checkpoints leave away the name of the module that all others are in."""
    names = [f"{module}.weight", f"{module.partition('.')[2]}.weight"]
    for name in names:
        if name in checkpoint:
            return name
    raise CheckpointError(
        f"the adapter changes {module:.200}, but the checkpoint has no tensor {names[0]:.200}; they do not belong "
        "together."
    )


def _merged(base: Stored, name: str, module: str, tensors: dict[str, InFile], config: dict[str, Any]) -> Merged:
    a, b = tensors[f"{_PREFIX}{module}{_A}"], tensors[f"{_PREFIX}{module}{_B}"]
    if isinstance(base, Int4Tensor):
        raise CheckpointError(
            f"{name} is int4 ({base.packing.method}), into which no adapter can be merged without rounding it again; "
            "use the model's BF16 or F16 checkpoint."
        )
    transposed = config.get("fan_in_fan_out") or False
    rank = _setting(config, "rank_pattern", module, config.get("r"))
    alpha = _setting(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if type(transposed) is not bool or type(config.get("use_rslora", False)) is not bool:
        raise CheckpointError(
            "adapter_config.json says something else than true or false in fan_in_fan_out or use_rslora."
        )
    if type(rank) is not int or rank < 1:
        raise CheckpointError(f"adapter_config.json gives {module} the rank {rank!r:.200}; it must be at least 1.")
    if type(alpha) not in (int, float) or not abs(alpha) < 1e30:
        raise CheckpointError(f"adapter_config.json gives {module} lora_alpha={alpha!r:.200}, which is not a number.")
    shape = base.spec.shape if len(base.spec.shape) == 2 else (0, 0)
    outputs, inputs = shape[::-1] if transposed else shape
    if a.spec.shape != (rank, inputs) or b.spec.shape != (outputs, rank):
        raise CheckpointError(
            f"the adapter's matrices for {module} have shapes {list(a.spec.shape)} and {list(b.spec.shape)}, but its "
            f"rank {rank} and the checkpoint's {list(base.spec.shape)} imply {[rank, inputs]} and {[outputs, rank]}."
        )
    if not (a.spec.dtype.is_floating_point and b.spec.dtype.is_floating_point and base.spec.dtype.is_floating_point):
        raise CheckpointError(f"{name} or the adapter's matrices for it are whole numbers, which cannot be merged.")
    return Merged(base, a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), transposed)


def _setting(config: dict[str, Any], key: str, module: str, default: Any) -> Any:
    """A module's own value where a pattern fits it, as PEFT looks for it: the first that fits the end of its name."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"adapter_config.json says {key}={patterns!r:.200}, which is not an object.")
    for pattern, value in patterns.items():
        if not re.fullmatch(r"\^?[\w.-]+\$?", pattern):
            raise CheckpointError(
                f"adapter_config.json has the regular expression {pattern!r:.200} in {key}; llmserve reads names of "
                "modules there, and the ends of such names."
            )
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _not_implemented(key: str, value: Any, known: str) -> CheckpointError:
    return CheckpointError(
        f"adapter_config.json says {key}={value!r:.200}, which llmserve does not implement; it merges {known}."
    )
