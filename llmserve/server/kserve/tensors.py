"""Tensors as KServe's clients send and read them: in JSON, or as bytes behind it (the binary tensor extension).

Little-endian and row by row; an element of BYTES is its length in four bytes and then itself. Knows no parameter and
no model.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from llmserve.errors import RequestError
from llmserve.server.errors import shown

NUMBERS = {
    "BOOL": "?", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q", "FP32": "f", "FP64": "d",
}  # fmt: skip
"""KServe's name of a datatype → `struct`'s."""

DATATYPES = (*NUMBERS, "BYTES")
MAX_ELEMENTS = 2**20
LENGTH_BYTES = 4
"""Before each element of BYTES."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data`: its elements row by row, as bool, int, float or str."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]

    def in_json(self) -> dict[str, Any]:
        return self._head() | {"data": self.data}

    def in_binary(self) -> tuple[dict[str, Any], bytes]:
        """What JSON says of it, and its bytes."""
        if self.datatype == "BYTES":
            elements = [text.encode(errors="replace") for text in self.data]
            raw = b"".join(chain.from_iterable((struct.pack("<I", len(e)), e) for e in elements))
        else:
            raw = struct.pack(f"<{len(self.data)}{NUMBERS[self.datatype]}", *self.data)
        return self._head() | {"parameters": {"binary_data_size": len(raw)}}, raw

    def _head(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def from_json(name: str, datatype: str, shape: Iterable[int], data: list[Any]) -> Tensor:
    """`data`: flat, or nested as its shape is. RequestError that names the tensor."""
    sizes = _checked_shape(name, datatype, shape)
    elements = data
    for _ in sizes[1:]:
        if elements and all(isinstance(each, list) for each in elements):
            elements = list(chain.from_iterable(elements))
    _check_count(name, sizes, len(elements))
    for element in elements:
        if not _fits(element, datatype):
            raise RequestError(f"{name} is of {datatype}, which {shown(element)} is not.", param=name)
    return Tensor(name, datatype, sizes, elements)


def from_binary(name: str, datatype: str, shape: Iterable[int], raw: bytes) -> Tensor:
    """RequestError that names the tensor."""
    sizes = _checked_shape(name, datatype, shape)
    if datatype == "BYTES":
        elements: list[Any] = _texts(name, raw)
        _check_count(name, sizes, len(elements))
        return Tensor(name, datatype, sizes, elements)
    form = f"<{math.prod(sizes)}{NUMBERS[datatype]}"
    if len(raw) != struct.calcsize(form):
        raise RequestError(
            f"{name} has {len(raw)} bytes; {datatype} of shape {list(sizes)} has {struct.calcsize(form)}.", param=name
        )
    return Tensor(name, datatype, sizes, list(struct.unpack(form, raw)))


def _checked_shape(name: str, datatype: str, shape: Iterable[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    if datatype not in DATATYPES:
        raise RequestError(f"{name} is of datatype {shown(datatype)}; known are {', '.join(DATATYPES)}.", param=name)
    if not 1 <= len(sizes) <= 2 or min(sizes) < 1 or math.prod(sizes) > MAX_ELEMENTS:
        raise RequestError(
            f"{name} must have one or two dimensions of at least 1 and at most {MAX_ELEMENTS} elements.", param=name
        )
    return sizes


def _check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    if count != math.prod(shape):
        raise RequestError(f"{name} has {count} elements; its shape {list(shape)} says {math.prod(shape)}.", param=name)


def _fits(element: Any, datatype: str) -> bool:
    match datatype:
        case "BYTES":
            return isinstance(element, str)
        case "BOOL":
            return isinstance(element, bool)
        case "FP32" | "FP64":
            return type(element) in (int, float) and abs(element) <= 3e38
    bits = int(datatype[-2:])
    low, high = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return type(element) is int and low <= element < high


def _texts(name: str, raw: bytes) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(raw):
        begin = at + LENGTH_BYTES
        at = begin + int.from_bytes(raw[at:begin], "little")
        if at > len(raw) or len(texts) == MAX_ELEMENTS:
            raise RequestError(f"{name} has bytes that are no elements with their lengths before them.", param=name)
        try:
            texts.append(raw[begin:at].decode())
        except UnicodeDecodeError as e:
            raise RequestError(f"{name} must be UTF-8; byte {e.start} of an element is not.", param=name) from None
    return texts
