"""Checksums of files: those of the bytes, however they are read."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from blake3 import blake3

from llmserve.checkpoint.disk import blake3_file

SIZE = (33 << 20) + 5


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "file"
    path.write_bytes(Random(0).randbytes(SIZE))
    return path


@pytest.mark.parametrize("threads, times", [(1, 3), (3, 2)])
def test_a_file_s_checksum_is_that_of_its_bytes(threads: int, times: int, file: Path) -> None:
    told: list[int] = []
    assert blake3_file(file, threads, told.append, 100) == blake3(file.read_bytes()).hexdigest()
    assert told == sorted(set(told))
    assert (len(told), told[-1]) == (times, 100 + SIZE)


def test_of_nothing_there_is_nothing_to_tell(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    told: list[int] = []
    assert blake3_file(tmp_path / "empty", 1, told.append) == blake3().hexdigest()
    assert not told
