"""What every writer and checker of files needs: durable writes, hashes, and a sentence for a write that failed.

Knows nothing of tensors, checkpoints or engines.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from llmserve.errors import BuildError

Progress = Callable[[int], None]
"""Called with the number of bytes done so far in the whole operation."""

_CHUNK = 4 << 20


def sha256_file(path: Path, progress: Progress | None = None, done: int = 0) -> str:
    """Hex SHA-256 of a file, read in small pieces. `progress` counts on from `done` bytes. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            if progress is not None:
                progress(done)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Waits until a file's data, or a folder's list of names, is on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_failed(error: OSError, path: Path, needed: int) -> BuildError:
    """The sentence for `error`, met while writing `needed` bytes to `path`."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(path.parent).free
        return BuildError(
            f"{path.name} needs {readable_bytes(needed)} but only {readable_bytes(free)} are free in {path.parent}; "
            "free some space or choose another -o."
        )
    return BuildError(f"{path} ({readable_bytes(needed)}) cannot be written: {error.strerror or error}.")


def readable_bytes(count: int) -> str:
    """`1.5 GB`; powers of 1000, as disks are sold and `df -H` shows them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
