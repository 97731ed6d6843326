"""PyTorch files as torch.save writes them, and as somebody would write them who means harm."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

EMPTY = b"\x80\x02}."
"""A pickle of an empty dictionary."""


def save_bin(tensors: Mapping[str, torch.Tensor], path: Path, protocol: int = 2) -> None:
    torch.save(dict(tensors), path, pickle_protocol=protocol)


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A file that looks like torch.save's and holds these under `archive/`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def with_pickle(path: Path, pickle: bytes, **storages: bytes) -> Path:
    return write_zip(path, {"data.pkl": pickle, **{f"data/{key[1:]}": data for key, data in storages.items()}})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tensor(key: str, numel: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a dictionary that holds one tensor of float32, `x`."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel) + b"tQ"
    sizes, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + steps + b"\x89" + hooks + b"tR"
    return b"\x80\x02}" + text("x") + call + b"s."
