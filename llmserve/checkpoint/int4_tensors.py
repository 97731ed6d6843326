"""int4 weights of GPTQ and AWQ checkpoints, as rows of an ordinary matrix: W = (q - zero) · scale.

A module's `qweight`, `qzeros`, `scales` and `g_idx` become one tensor `weight` of shape [outputs, inputs], of which
rows can be had as numbers, or as what they are made of, which is how an int4 engine keeps them without loss. Knows
nothing of layers, ranks or engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llmserve.checkpoint.folder import Stored
from llmserve.checkpoint.int4_config import Packing
from llmserve.checkpoint.tensor_file import TensorSpec
from llmserve.errors import CheckpointError

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_PER_WORD = 8


@dataclass(frozen=True, eq=False)
class Int4Tensor:
    """A matrix [outputs, inputs] that is stored in groups of 4-bit values; see `Packing`."""

    name: str  # of the module
    packing: Packing
    qweight: Stored  # int32, [inputs / 8, outputs] or [inputs, outputs / 8]
    qzeros: Stored  # int32, [groups, outputs / 8]
    scales: Stored  # [groups, outputs]
    group_size: int  # inputs that share a scale; the last group may be shorter

    @property
    def spec(self) -> TensorSpec:
        shape, by = self.qweight.spec.shape, self.packing.along_inputs
        outputs, inputs = (shape[1], shape[0] * _PER_WORD) if by else (shape[1] * _PER_WORD, shape[0])
        return TensorSpec((outputs, inputs), self.scales.spec.dtype)

    def rows(self, start: int, stop: int, cols: tuple[int, int] | None = None) -> Tensor:
        """Rows [start, stop) as fp32 numbers, exactly what (q - zero) · scale is."""
        first, last = cols or (0, self.spec.shape[1])
        q, zero, scale = self._parts(start, stop, first, last)
        group = torch.arange(first, last) // self.group_size - first // self.group_size
        return (q.float() - zero.float()[:, group]) * scale[:, group]

    def groups(self, start: int, stop: int, cols: tuple[int, int] | None, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [start, stop) in groups of `size` columns, which divides the stored groups' and begins at a group's.

        → q [n, cols] uint8, zero [n, cols / size] uint8, scale [n, cols / size] fp16.
        """
        first, last = cols or (0, self.spec.shape[1])
        q, zero, scale = self._parts(start, stop, first, last)
        group = torch.arange(first, last, size) // self.group_size - first // self.group_size
        narrow = scale.half()
        if not narrow.float().equal(scale):
            raise CheckpointError(
                f"{self.name}.scales holds numbers that float16, in which int4 engines keep scales, cannot hold "
                "exactly; use the model's BF16 or F16 checkpoint."
            )
        return q, zero[:, group].contiguous(), narrow[:, group].contiguous()

    def _parts(self, start: int, stop: int, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """q [n, columns] uint8, and of each group that has one of the columns: zero [n, …] uint8, scale [n, …] fp32."""
        groups = first // self.group_size, -(-last // self.group_size)
        words = start // _PER_WORD, -(-stop // _PER_WORD)  # that hold the outputs, where a word holds outputs
        outputs = slice(start - words[0] * _PER_WORD, stop - words[0] * _PER_WORD)
        if self.packing.along_inputs:
            inputs = first // _PER_WORD, -(-last // _PER_WORD)
            values = self._unpacked(self.qweight.rows(*inputs, (start, stop)))  # [words, n, 8]
            columns = slice(first - inputs[0] * _PER_WORD, last - inputs[0] * _PER_WORD)
            q = values.permute(1, 0, 2).flatten(1)[:, columns]
        else:
            q = self._unpacked(self.qweight.rows(first, last, words)).flatten(1)[:, outputs].T
        zero = self._unpacked(self.qzeros.rows(*groups, words)).flatten(1)[:, outputs].T
        scale = self.scales.rows(*groups, (start, stop)).float().T
        self._check(zero, scale)
        return q.contiguous(), zero + self.packing.zero_offset, scale

    def _unpacked(self, words: Tensor) -> Tensor:
        """int32 [a, b] → uint8 [a, b, 8]."""
        return torch.stack([(words >> shift & 15).to(torch.uint8) for shift in self.packing.shifts], dim=2)

    def _check(self, zero: Tensor, scale: Tensor) -> None:
        """`zero` as it is stored."""
        if not scale.isfinite().all():
            raise CheckpointError(f"{self.name}.scales holds NaN or infinity; the checkpoint is damaged.")
        offset = self.packing.zero_offset
        if self.packing.symmetric and not (zero == 8 - offset).all():
            raise CheckpointError(
                f"quantization_config says sym=True, but {self.name}.qzeros holds zero points other than 8; correct "
                "the one or the other."
            )
        if offset and (zero == 15).any():
            raise CheckpointError(
                f"{self.name}.qzeros holds a zero point that is stored as 15, which programs that read the format gptq "
                "take for 0 or for 16; use a checkpoint of the format gptq_v2."
            )


def int4_tensors(tensors: dict[str, Stored], packing: Packing) -> dict[str, Stored]:
    """All tensors, each int4 module's parts replaced by its `weight`. Raises CheckpointError."""
    modules = sorted(name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight"))
    if not modules:
        raise CheckpointError(
            f"config.json has a quantization_config for {packing.method}, but the checkpoint holds no qweight; remove "
            "the one or download the other."
        )
    parts = {module + part for module in modules for part in _PARTS}
    plain = {name: tensor for name, tensor in tensors.items() if name not in parts}
    return plain | {f"{module}.weight": _module(module, tensors, packing) for module in modules}


def _module(name: str, tensors: dict[str, Stored], packing: Packing) -> Int4Tensor:
    for part in (".qzeros", ".scales"):
        if name + part not in tensors:
            raise CheckpointError(f"the checkpoint has {name}.qweight but no {name}{part}; copy or download it again.")
    if f"{name}.weight" in tensors:
        raise CheckpointError(
            f"the checkpoint has both {name}.qweight and {name}.weight; remove the one that is wrong."
        )
    qweight, qzeros, scales = (tensors[name + part] for part in (".qweight", ".qzeros", ".scales"))
    for part, tensor in ((".qweight", qweight), (".qzeros", qzeros)):
        if tensor.spec.dtype != torch.int32 or len(tensor.spec.shape) != 2 or 0 in tensor.spec.shape:
            raise CheckpointError(f"{name}{part} is {_told(tensor)}, not a matrix of int32; the checkpoint is damaged.")
    inputs = qweight.spec.shape[0] * (_PER_WORD if packing.along_inputs else 1)
    made = Int4Tensor(name, packing, qweight, qzeros, scales, packing.group_size or inputs)
    outputs, inputs = made.spec.shape
    groups = -(-inputs // made.group_size)
    for part, tensor, shape in (
        (".qzeros", qzeros, (groups, outputs // _PER_WORD)),
        (".scales", scales, (groups, outputs)),
    ):
        if tensor.spec.shape != shape or outputs % _PER_WORD:
            raise CheckpointError(
                f"{name}{part} has shape {list(tensor.spec.shape)}, but {name}.qweight and group_size="
                f"{packing.group_size or -1} imply {list(shape)}; the checkpoint and its config do not belong together."
            )
    if not scales.spec.dtype.is_floating_point:
        raise CheckpointError(f"{name}.scales is {_told(scales)}, not numbers; the checkpoint is damaged.")
    _check_order(name, tensors.get(f"{name}.g_idx"), inputs, made.group_size)
    return made


def _check_order(name: str, g_idx: Stored | None, inputs: int, group_size: int) -> None:
    """Whether neighbours share a group, as they do unless GPTQ put its inputs in an order of its own (desc_act)."""
    if g_idx is None:
        return
    if g_idx.spec != TensorSpec((inputs,), torch.int32):
        raise CheckpointError(f"{name}.g_idx is {_told(g_idx)}, not {inputs} of int32; the checkpoint is damaged.")
    if not g_idx.rows(0, inputs).equal((torch.arange(inputs) // group_size).int()):
        raise CheckpointError(
            f"{name}.g_idx gives inputs to groups out of order (desc_act), which llmserve does not implement; use a "
            "checkpoint that was quantised with desc_act=false."
        )


def _told(tensor: Stored) -> str:
    return f"{str(tensor.spec.dtype).removeprefix('torch.')} {list(tensor.spec.shape)}"


def common_group_size(tensors: dict[str, Stored]) -> int:
    """The largest size of groups that all int4 tensors can be cut into without a scale changing within one."""
    int4 = [tensor for tensor in tensors.values() if isinstance(tensor, Int4Tensor)]
    return math.gcd(*(tensor.group_size for tensor in int4))
