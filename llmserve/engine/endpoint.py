"""Where a front and its engine meet: a Unix socket in a private folder, gone as soon as they have met."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "llmserve-"
_LONGEST = 80
"""Characters of a folder's path: a Unix socket's whole path must stay under 108."""


@contextmanager
def private_endpoint() -> Iterator[str]:
    """An address that only this user can bind or connect to."""
    usual = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=usual if len(usual) <= _LONGEST else "/tmp")
    endpoint = f"ipc://{folder}/engine"
    try:
        yield endpoint
    finally:
        forget(endpoint)


def forget(endpoint: str) -> None:
    """Remove the socket from the file system. Who is connected stays so, and whoever is killed then leaves no trace."""
    folder = Path(endpoint.removeprefix("ipc://")).parent
    if folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
