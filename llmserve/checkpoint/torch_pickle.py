"""The pickle in a PyTorch file, read as data: which tensors there are and where in the storages they lie.

A pickle is a program that may import and call anything. This reads the few operations that `torch.save` writes for a
dictionary of tensors, imports nothing and calls nothing; a pickle that wants more is refused and the sentence names
what it wanted. Time and memory are bounded by the pickle's length.

Sources: Python's pickletools (the operations), torch/_utils.py and torch/serialization.py (what tensors become). Does
no input or output; `torch_file` does.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmserve.errors import CheckpointError

MAX_BYTES = 16 << 20
"""Of a pickle. A tensor takes some 250."""
_MAX_STEPS = 4_000_000
_MAX_DIMS = 8

_STORAGES = {
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_DICT = ("collections", "OrderedDict")


@dataclass(frozen=True, slots=True)
class Storage:
    """`numel` numbers, kept under `key`."""

    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: element (i, j, …) is the storage's number offset + i · strides[0] + j · strides[1] + …"""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


def read_pickle(path: Path, data: bytes) -> dict[str, View]:
    """The tensors by name. `path` is for the sentence. Raises CheckpointError."""
    try:
        value = _Machine(path, data).run()
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, ValueError, TypeError):
        raise damaged(path, "its pickle is not valid") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors.")
    for name, view in value.items():
        if not isinstance(view, View):
            raise CheckpointError(
                f"{path} holds a {type(view).__name__} under {name!r:.200}, where llmserve reads tensors only; save "
                "the model's state_dict alone."
            )
    return {str(name): view for name, view in value.items()}


def damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole PyTorch file: {what}; copy or download it again.")


class _Machine:
    """A stack of values, the stacks below each open mark, and the memo, as pickletools describes them."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_STEPS):
            code = self._take(1)
            if code == b".":
                return self._stack.pop()
            if code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _OPERATIONS:
                _OPERATIONS[code](self)
            else:
                raise self._refused(self._named(code))
        raise damaged(self._path, f"its pickle has more than {_MAX_STEPS} operations")

    def _named(self, code: bytes) -> str:
        names = [known.name for known in pickletools.opcodes if known.code == code.decode("latin-1")]
        if not names:
            raise ValueError("no operation")
        if names == ["INST"]:
            return self._line() + "." + self._line()
        return f"the operation {names[0]}"

    def _refused(self, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is refused: to read it Python would have to run {wanted!r:.200}, and weights need nothing "
            "but tensors; use a checkpoint with safetensors files."
        )

    # Bytes

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise IndexError("the pickle has ended")
        self._at += count
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        line = self._data[self._at : end].decode("utf-8")
        self._at = end + 1
        return line

    # Operations

    def skip_protocol(self) -> None:
        self._take(1)

    def skip_frame(self) -> None:
        self._take(8)

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._below.pop()
        return values

    def text(self, length: str) -> None:
        self._stack.append(self._take(self._number(length)).decode("utf-8"))

    def integer(self, form: str) -> None:
        self._stack.append(self._number(form))

    def long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def real(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def empty_dict(self) -> None:
        self._stack.append({})

    def empty_list(self) -> None:
        self._stack.append([])

    def tuple_since_mark(self) -> None:
        values = tuple(self._since_mark())
        self._stack.append(values)

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("the stack is too short")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def put(self, form: str) -> None:
        self._memo[self._number(form)] = self._stack[-1]

    def put_next(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, form: str) -> None:
        self._stack.append(self._memo[self._number(form)])

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def set_items(self) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError("a key that names nothing")
            target[key] = value

    def append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("values for what is no list")
        self._stack[-1].extend(values)

    def known_global(self) -> None:
        module, name = self._line(), self._line()
        self._push_global(module, name)

    def stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        if (module, name) not in (_TENSOR, _PARAMETER, _DICT, *_STORAGES):
            raise self._refused(f"{module}.{name}")
        self._stack.append(_Global(module, name))

    def build(self) -> None:
        """A state_dict's attributes (`_metadata`: versions of modules) say nothing about its tensors."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise self._refused("the operation BUILD")

    def persistent(self) -> None:
        kind, of, key, _where, numel = self._stack.pop()
        if kind != "storage" or not isinstance(of, _Global) or (of.module, of.name) not in _STORAGES:
            raise TypeError("a persistent id that is no storage")
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise TypeError("a storage without a key or a size")
        self._stack.append(Storage(_STORAGES[of.module, of.name], key, numel))

    def reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise TypeError("a call of what is no function")
        called = (function.module, function.name)
        if called == _TENSOR:
            self._stack.append(_view(args))
        elif called == _PARAMETER and isinstance(args[0], View):
            self._stack.append(args[0])
        elif called == _DICT and not args:
            self._stack.append({})
        else:
            raise self._refused(f"{function.module}.{function.name}")


def _view(args: tuple[Any, ...]) -> View:
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a tensor of what is no storage")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMS:
        raise ValueError("a tensor without a shape")
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor of a shape that cannot be")
    return View(storage, offset, shape, strides)


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}

_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.skip_protocol,
    b"\x95": _Machine.skip_frame,
    b"(": _Machine.mark,
    b"X": lambda m: m.text("<I"),
    b"\x8c": lambda m: m.text("<B"),
    b"\x8d": lambda m: m.text("<Q"),
    b"U": lambda m: m.text("<B"),
    b"J": lambda m: m.integer("<i"),
    b"K": lambda m: m.integer("<B"),
    b"M": lambda m: m.integer("<H"),
    b"\x8a": _Machine.long,
    b"G": _Machine.real,
    b"}": _Machine.empty_dict,
    b"]": _Machine.empty_list,
    b"t": _Machine.tuple_since_mark,
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"q": lambda m: m.put("<B"),
    b"r": lambda m: m.put("<I"),
    b"\x94": _Machine.put_next,
    b"h": lambda m: m.get("<B"),
    b"j": lambda m: m.get("<I"),
    b"s": _Machine.set_item,
    b"u": _Machine.set_items,
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"c": _Machine.known_global,
    b"\x93": _Machine.stack_global,
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
    b"R": _Machine.reduce,
}
