"""The header of a safetensors file: JSON bytes ↔ what each tensor is and where its data lies.

    8 bytes   length of the header, little-endian
    header    JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}
    data      the tensors, row-major, little-endian, side by side without holes

Source: https://github.com/huggingface/safetensors#format. Does no input or output; `tensor_file` does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmserve.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ALIGNMENT = 64
"""Bytes. A cache line, and the width of an AVX-512 load."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its data."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Length of dimension 0. A scalar is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def band(self, start: int, stop: int) -> tuple[int, ...]:
        """The shape of rows [start, stop); a scalar's only band has the scalar's shape. Raises ValueError."""
        if not 0 <= start <= stop <= self.rows or (not self.shape and (start, stop) != (0, 1)):
            raise ValueError(f"rows [{start}, {stop}) are not rows of a tensor of shape {list(self.shape)}")
        return (stop - start, *self.shape[1:]) if self.shape else ()


@dataclass(frozen=True)
class Header:
    """`specs` in the order of the data; `begins`: each tensor's first byte, counted from the end of the header."""

    specs: dict[str, TensorSpec]
    begins: dict[str, int]
    data_nbytes: int
    metadata: dict[str, str]


def lay_out(specs: dict[str, TensorSpec], metadata: dict[str, str]) -> Header:
    """Orders tensors so that each begins at a multiple of the largest power of two, up to 64, that divides its size.

    Holes are not allowed, so order is all there is to choose: those of a multiple of 64 bytes first, then 32, and so
    on. Equals keep the order of `specs`. Every tensor is thereby aligned to its element size at least.
    """
    ordered = dict(sorted(specs.items(), key=lambda item: -math.gcd(item[1].nbytes, ALIGNMENT)))
    begins, position = {}, 0
    for name, spec in ordered.items():
        begins[name] = position
        position += spec.nbytes
    return Header(ordered, begins, position, metadata)


def encode_header(header: Header) -> bytes:
    """The file's bytes before the data: length and JSON, padded with spaces so that data begins at a multiple of 64."""
    entries: dict[str, Any] = {"__metadata__": header.metadata} if header.metadata else {}
    for name, spec in header.specs.items():
        if name == "__metadata__" or spec.dtype not in _NAMES:
            raise ValueError(f"{name}: {spec} cannot be written to a safetensors file")
        begin = header.begins[name]
        offsets = [begin, begin + spec.nbytes]
        entries[name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def decode_header(path: Path, text: bytes) -> Header:
    """Checks everything the format promises of a header; `path` is for the sentence. Raises CheckpointError."""
    try:
        entries = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        raise damaged(path, "its header is not valid JSON") from None
    if not isinstance(entries, dict):
        raise damaged(path, "its header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "its __metadata__ is not a map of strings")
    specs, begins, position = {}, {}, 0
    parsed = [(name, *_decode_entry(path, name, entry)) for name, entry in entries.items()]
    for name, spec, begin, end in sorted(parsed, key=lambda item: item[2:]):
        if end - begin != spec.nbytes:
            raise damaged(path, f"{name} has {end - begin} bytes where its shape and dtype need {spec.nbytes}")
        if begin != position:
            raise damaged(path, f"{name} begins at byte {begin} of the data, the tensor before it ends at {position}")
        specs[name], begins[name], position = spec, begin, end
    return Header(specs, begins, position, metadata)


def damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file: {what}; copy or download it again.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("duplicate key")
    return entries


def _decode_entry(path: Path, name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    if not isinstance(entry, dict):
        raise damaged(path, f"the entry of {name} is not a JSON object")
    shape = _sizes(path, name, entry, "shape")
    offsets = _sizes(path, name, entry, "data_offsets")
    if len(offsets) != 2:
        raise damaged(path, f"{name} has no valid data_offsets")
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise CheckpointError(
            f"{path} holds {name} with dtype {entry.get('dtype')}, which llmserve does not read "
            f"(it reads {', '.join(DTYPES)}); use a checkpoint in BF16 or F16."
        )
    return TensorSpec(tuple(shape), dtype), offsets[0], offsets[1]


def _sizes(path: Path, name: str, entry: dict[str, Any], key: str) -> list[int]:
    value = entry.get(key)
    if not isinstance(value, list) or any(type(n) is not int or n < 0 for n in value):
        raise damaged(path, f"{name} has no valid {key}")
    return value
