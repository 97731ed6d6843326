"""The safetensors file format, read and written a band of rows at a time.

The `safetensors` library maps a whole file to read it and wants every tensor in memory to write it. A build must stay
within a few bands of rows, however large the checkpoint, and mapped pages count as resident memory; hence this
module, which only ever reads and writes the bytes asked for. The format itself is described in `tensor_header`.

Knows nothing of folders of files, of what a tensor is for, or of engines.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType

import torch

from llmserve.checkpoint.disk import write_failed
from llmserve.checkpoint.tensor_header import TensorSpec, damaged, decode_header, encode_header, lay_out
from llmserve.errors import BuildError, CheckpointError

__all__ = ["TensorFileReader", "TensorFileWriter", "TensorSpec"]

_MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit


class TensorFileReader:
    """A safetensors file's header, checked, and its tensors by bands of rows.

    Holds no file handle and no mapping: each read opens, reads and closes, so any number of readers may be kept, and
    threads and processes may share them.

    Attributes: `path`; `specs`, by name, in the order of the data; `metadata`; `file_size` in bytes; `header_sha256`,
    in hex. Raises CheckpointError, one sentence, if the file cannot be read or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.file_size = os.fstat(file.fileno()).st_size
                first = file.read(8)
                length = int.from_bytes(first, "little")
                if first == b"version " and self.file_size < 1024:
                    raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`.")
                if len(first) < 8 or length > self.file_size - 8:
                    raise damaged(path, f"its header is cut off (the file has {self.file_size} bytes)")
                if length > _MAX_HEADER:
                    raise damaged(path, f"its header would be {length} bytes long")
                text = file.read(length)
        except OSError as e:
            raise CheckpointError(f"{path} cannot be read: {e.strerror or e}.") from None
        header = decode_header(path, text)
        self.specs = header.specs
        self.metadata = header.metadata
        self.header_sha256 = hashlib.sha256(text).hexdigest()
        self._data_start = 8 + length
        self._begins = header.begins
        expected = self._data_start + header.data_nbytes
        if expected != self.file_size:
            what = "is cut off" if expected > self.file_size else "goes on after its last tensor"
            raise damaged(path, f"it {what} (it has {self.file_size} bytes, its header describes {expected})")

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> torch.Tensor:
        """Rows [start, stop) of dimension 0, and of a matrix only columns [cols[0], cols[1]).

        Returns an owned, contiguous tensor of shape (stop - start, *rest) and the file's dtype; only those bytes are
        read. A scalar is read as rows [0, 1) and comes back as a scalar. Raises CheckpointError if the file has been
        cut short since it was opened, KeyError for an unknown name, ValueError for rows or columns out of range.
        """
        spec = self.specs[name]
        shape = spec.band(start, stop)
        pitch = width = spec.row_nbytes  # bytes from row to row, and bytes wanted of each
        offset = self._data_start + self._begins[name] + start * pitch
        if cols is not None:
            if len(shape) != 2 or not 0 <= cols[0] <= cols[1] <= shape[1]:
                raise ValueError(f"columns {cols} are not columns of a tensor of shape {list(spec.shape)}")
            shape = (shape[0], cols[1] - cols[0])
            width = shape[1] * spec.dtype.itemsize
            offset += cols[0] * spec.dtype.itemsize
        count = stop - start
        data = read_rectangle(self.path, self.file_size, offset, count, width, pitch)
        return data.view(spec.dtype).reshape(shape)


def read_rectangle(path: Path, file_size: int, offset: int, count: int, width: int, pitch: int) -> torch.Tensor:
    """`count` runs of `width` bytes, whose beginnings are `pitch` bytes apart → owned uint8 [count · width].

    `file_size`: what it was when the offsets were found to lie in it. CheckpointError if it has been cut short since.
    """
    data = torch.empty(count * width, dtype=torch.uint8)
    buffer = data.numpy().data
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            if width == pitch:
                _read(path, file_size, fd, buffer, offset)
            else:
                for row in range(count):
                    _read(path, file_size, fd, buffer[row * width : (row + 1) * width], offset + row * pitch)
        finally:
            os.close(fd)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}.") from None
    return data


def _read(path: Path, file_size: int, fd: int, buffer: memoryview, offset: int) -> None:
    while len(buffer):  # Linux reads at most 2 GiB a call
        count = os.preadv(fd, [buffer], offset)
        if count == 0:
            raise damaged(path, f"it now ends at byte {offset}, it had {file_size} bytes when opened")
        buffer, offset = buffer[count:], offset + count


class TensorFileWriter:
    """A new safetensors file whose tensors are written by bands of rows, in any order, each row once.

    The header is written and the whole file's space is taken at once, so that a full disk shows before the work and
    not after it. Data begins at a multiple of 64 bytes, and so does every tensor of a multiple of 64 bytes; any other
    begins at a multiple of its element size at least (see `lay_out`).

    Use it as a context manager, or call `close`. Leaving by an exception closes the file and checks nothing; removing
    it is up to whoever owns the folder. Misuse (wrong shape, a row written twice or never) is a bug: ValueError.
    Raises BuildError if the file cannot be made or the disk is full.

    Attributes: `path`; `specs`, by name, in the order of the data; `file_size` in bytes.
    """

    def __init__(self, path: Path, specs: dict[str, TensorSpec], metadata: dict[str, str]) -> None:
        header = lay_out(specs, metadata)
        text = encode_header(header)
        self.path = path
        self.specs = header.specs
        self.file_size = len(text) + header.data_nbytes
        self._data_start = len(text)
        self._begins = header.begins
        self._written = {name: _Rows() for name in specs}
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as e:
            raise write_failed(e, path, self.file_size) from None
        try:
            self._take_space()
            self._write(memoryview(text), 0)
        except BuildError:
            self._release()
            raise

    def write(self, name: str, row: int, tensor: torch.Tensor) -> None:
        """Puts `tensor`, of shape (n, *shape[1:]) and the spec's dtype, at rows [row, row + n) of `name`.

        A scalar is written as itself at row 0. Raises BuildError if the disk refuses.
        """
        spec = self.specs[name]
        stop = row + (len(tensor) if tensor.dim() else 1)
        if tensor.shape != spec.band(row, stop) or tensor.dtype != spec.dtype:
            raise ValueError(f"{name} is {spec}; rows of {tensor.dtype} {list(tensor.shape)} do not fit at row {row}")
        self._written[name].add(name, row, stop)
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        self._write(data, self._data_start + self._begins[name] + row * spec.row_nbytes)

    def close(self) -> None:
        """Checks that every row was written, and returns when the file is on the disk. Does nothing a second time."""
        if self._fd < 0:
            return
        try:
            for name, spec in self.specs.items():
                if spec.nbytes and self._written[name].spans != [(0, spec.rows)]:
                    raise ValueError(f"of {name}'s {spec.rows} rows only {self._written[name].spans} were written")
            os.fsync(self._fd)
        except OSError as e:
            raise write_failed(e, self.path, self.file_size) from None
        finally:
            self._release()

    def __enter__(self) -> TensorFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_space(self) -> None:
        try:
            os.posix_fallocate(self._fd, 0, self.file_size)
        except OSError as e:
            os.ftruncate(self._fd, 0)  # give back what it got, so that the sentence counts that as free
            if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise write_failed(e, self.path, self.file_size) from None
            os.ftruncate(self._fd, self.file_size)  # a file system that cannot reserve: a full disk shows at a write

    def _write(self, data: memoryview, offset: int) -> None:
        try:
            while len(data):
                count = os.pwrite(self._fd, data, offset)
                data, offset = data[count:], offset + count
        except OSError as e:
            raise write_failed(e, self.path, self.file_size) from None


class _Rows:
    """Which rows of one tensor have been written: sorted, disjoint [start, stop) spans, neighbours joined."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def add(self, name: str, start: int, stop: int) -> None:
        if start == stop:
            return
        joined: list[tuple[int, int]] = []
        for begin, end in sorted([*self.spans, (start, stop)]):
            if joined and begin < joined[-1][1]:
                raise ValueError(f"rows [{start}, {stop}) of {name} were already written, at least in part")
            if joined and begin == joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((begin, end))
        self.spans = joined
