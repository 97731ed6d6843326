"""What every writer and checker of files needs: durable writes, hashes, and a sentence for a write that failed.

Knows nothing of tensors, checkpoints or engines.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from llmserve.errors import BuildError

Progress = Callable[[int], None]
"""Called with the number of bytes done so far in the whole operation."""

_PIECE = 1 << 20
"""Bytes for each thread: read just before, they are hashed from its cache and not from memory."""

_TOLD = 16 << 20
"""Bytes from one call of `progress` to the next: each may be a message to another process."""


def blake3_file(path: Path, threads: int, progress: Progress | None = None, done: int = 0) -> str:
    """Hex BLAKE3 of a file, on so many `threads`. `progress` counts on from `done` bytes. Raises OSError.

    It is read and not mapped: what cannot be read is then an error and not a signal, and the file does not count as
    this process's memory.
    """
    digest = blake3(max_threads=threads)
    buffer = memoryview(bytearray(_PIECE * threads))
    told = done
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            if progress is not None and done - told >= _TOLD:
                progress(done)
                told = done
    if progress is not None and done != told:
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
