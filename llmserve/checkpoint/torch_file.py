"""A PyTorch `.bin` file, read a band of rows at a time, as `TensorFileReader` reads a safetensors file.

    archive/data.pkl        what each tensor is and where in the storages it lies: `torch_pickle`
    archive/data/0 ...      the storages, uncompressed: `torch_zip`

Tensors may share a storage and may lie in it transposed or as slices. Knows nothing of what a tensor is for.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from llmserve.checkpoint.tensor_file import TensorSpec, read_rectangle
from llmserve.checkpoint.torch_pickle import MAX_BYTES, View, damaged, read_pickle
from llmserve.checkpoint.torch_zip import Member, stored_members
from llmserve.errors import CheckpointError

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of PyTorch before 1.6 begin: a pickled number, and no zip."""


class TorchFileReader:
    """What tensors a file holds, checked, and the tensors by bands of rows.

    Holds no file handle and no mapping. Attributes: `path`; `specs`, by name; `file_size` in bytes; `header_sha256`,
    in hex: of the pickle and of where its storages lie. Raises CheckpointError, one sentence, if the file cannot be
    read, is damaged, or wants more than to be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._refuse_others()
            members = stored_members(path)
        except OSError as e:
            raise CheckpointError(f"{path} cannot be read: {e.strerror or e}.") from None
        root, pickle = self._pickle(members)
        self._check_byte_order(members.get(f"{root}/byteorder"))
        text = self._whole(pickle)
        views = read_pickle(path, text)
        digest = hashlib.sha256(text)
        self.specs: dict[str, TensorSpec] = {}
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        for name, view in views.items():
            storage = members.get(f"{root}/data/{view.storage.key}")
            if storage is None:
                raise damaged(path, f"the storage of {name} is missing")
            self._check(name, view, storage)
            item = view.storage.dtype.itemsize
            self.specs[name] = TensorSpec(view.shape, view.storage.dtype)
            self._places[name] = (storage.begin + view.offset * item, view.strides)
            digest.update(f" {storage.begin} {storage.size}".encode())
        self.header_sha256 = digest.hexdigest()

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """Rows [start, stop) of dimension 0, and of a matrix only columns [cols[0], cols[1]).

        As `TensorFileReader.rows`: an owned, contiguous tensor of the file's dtype; only those bytes are read.
        """
        spec = self.specs[name]
        shape = spec.band(start, stop)
        begin, strides = self._places[name]
        if cols is not None:
            if len(shape) != 2 or not 0 <= cols[0] <= cols[1] <= shape[1]:
                raise ValueError(f"columns {cols} are not columns of a tensor of shape {list(spec.shape)}")
            shape = (shape[0], cols[1] - cols[0])
        first = cols[0] if cols else 0
        item = spec.dtype.itemsize
        if 0 in shape:
            return torch.empty(shape, dtype=spec.dtype)
        if _by_columns(spec.shape, strides):
            offset = begin + (first * strides[1] + start) * item
            data = self._read(offset, shape[1], shape[0] * item, strides[1] * item)
            return data.view(spec.dtype).reshape(shape[1], shape[0]).T.contiguous()
        width = TensorSpec(shape, spec.dtype).row_nbytes
        pitch = strides[0] * item if shape and stop - start > 1 else width
        offset = begin + ((start * strides[0] if shape else 0) + first) * item
        return self._read(offset, stop - start, width, pitch).view(spec.dtype).reshape(shape)

    def _read(self, offset: int, count: int, width: int, pitch: int) -> torch.Tensor:
        return read_rectangle(self.path, self.file_size, offset, count, width, pitch)

    def _whole(self, member: Member) -> bytes:
        return bytes(self._read(member.begin, 1, member.size, member.size).numpy())

    def _refuse_others(self) -> None:
        with open(self.path, "rb") as file:
            self.file_size = os.fstat(file.fileno()).st_size
            first = file.read(len(_LEGACY))
        if first.startswith(b"version ") and self.file_size < 1024:
            raise CheckpointError(f"{self.path} is a Git LFS pointer, not the file itself; run `git lfs pull`.")
        if first == _LEGACY:
            raise CheckpointError(
                f"{self.path} is in the form that PyTorch wrote before 1.6, which cannot be read by slices; write it "
                f"anew with `python -c \"import torch; p='{self.path}'; "
                'torch.save(torch.load(p, weights_only=True), p)"`.'
            )
        if not first.startswith(b"PK\x03\x04"):
            raise damaged(self.path, "it does not begin as a zip file")

    def _pickle(self, members: dict[str, Member]) -> tuple[str, Member]:
        """The folder in the zip, and its pickle."""
        found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise damaged(self.path, f"it has {len(found)} pickles instead of one")
        root = found[0].removesuffix("/data.pkl")
        if f"{root}/constants.pkl" in members:
            raise CheckpointError(f"{self.path} is a TorchScript program and not weights; use the model's state_dict.")
        if members[found[0]].size > MAX_BYTES:
            raise damaged(self.path, f"its pickle would be {members[found[0]].size} bytes long")
        return root, members[found[0]]

    def _check_byte_order(self, member: Member | None) -> None:
        if member is not None and (member.size > 16 or self._whole(member) != b"little"):
            raise CheckpointError(f"{self.path} was written on a big-endian machine; save the model on another.")

    def _check(self, name: str, view: View, storage: Member) -> None:
        item = view.storage.dtype.itemsize
        if storage.size != view.storage.numel * item:
            raise damaged(
                self.path,
                f"the storage of {name} has {storage.size} bytes where {view.storage.numel * item} are needed",
            )
        if 0 in view.shape:
            return
        last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
        if last >= view.storage.numel:
            raise damaged(self.path, f"{name} goes beyond its storage")
        if not (_by_rows(view.shape, view.strides) or _by_columns(view.shape, view.strides)):
            raise CheckpointError(
                f"{self.path} holds {name} of shape {list(view.shape)} as a view with strides {list(view.strides)}, "
                "which llmserve does not read; save the model with contiguous tensors."
            )


def _by_rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Each row is whole and in order, and rows do not overlap."""
    expected = 1
    for n, stride in reversed(list(zip(shape[1:], strides[1:], strict=True))):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return not shape or shape[0] == 1 or strides[0] >= expected


def _by_columns(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """A matrix whose columns are whole and do not overlap, and that is not `_by_rows`."""
    return (
        len(shape) == 2 and strides[0] == 1 and strides[1] >= shape[0] and shape[0] > 1 and not _by_rows(shape, strides)
    )
