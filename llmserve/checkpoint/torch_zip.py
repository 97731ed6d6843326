"""The zip file that `torch.save` writes: where its members lie, so that they can be read by slices.

Compressed and encrypted members are refused, and so are members that overlap: with those a small file could pretend to
be a large one. Knows nothing of what the members hold.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmserve.checkpoint.torch_pickle import damaged
from llmserve.errors import CheckpointError

_MAX_DIRECTORY = 8 << 20
"""Bytes of a zip's list of members: 80,000 tensors."""

_LAST_RECORD = 1 << 17
"""Bytes that the record which ends a zip may take, comment included, are fewer."""

_LOCAL_HEADER = 30
"""Bytes before a member's name, which stands before its data."""


@dataclass(frozen=True, slots=True)
class Member:
    begin: int  # of its data, in the file
    size: int


class _Bounded(io.BufferedReader):
    """Reads what a list of members may take, and nothing larger at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_DIRECTORY:
            if size is not None and size > 0:
                raise ValueError("its list of members is too long")
            size = _LAST_RECORD
        return super().read(size)


def stored_members(path: Path) -> dict[str, Member]:
    """By name. Raises OSError, and CheckpointError where the file is no zip or none that can be read by slices."""
    with _Bounded(io.FileIO(str(path))) as file:
        try:
            with zipfile.ZipFile(file) as archive:  # reads the list of members and no more
                infos = archive.infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError, OverflowError) as e:
            raise damaged(path, f"its list of members cannot be read ({e})") from None
        size = file.seek(0, io.SEEK_END)
        members: dict[str, Member] = {}
        position = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            what = f"its member {info.filename!r:.200}"
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
                raise CheckpointError(
                    f"{path}: {what} is compressed or encrypted, which PyTorch's own files are not, and is refused; "
                    "save the model again with torch.save or as safetensors."
                )
            if info.filename in members:
                raise damaged(path, f"{what} is there twice")
            if info.header_offset < position:
                raise damaged(path, f"{what} overlaps another")
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER)
            if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise damaged(path, f"{what} is not where it should be")
            name, extra = struct.unpack("<HH", header[26:30])
            begin = info.header_offset + _LOCAL_HEADER + name + extra
            position = begin + info.file_size
            if position > size:
                raise damaged(path, f"{what} is cut off")
            members[info.filename] = Member(begin, info.file_size)
    return members
