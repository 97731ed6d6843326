"""Builds that have nowhere to write."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from llmserve.checkpoint.build import build_engine
from llmserve.checkpoint.source import Checkpoint
from llmserve.config import BuildConfig
from llmserve.errors import BuildError
from tests.build.refusal import refusal
from tests.tiny import build, tiny_checkpoint


def test_an_engine_that_is_already_there_stays_as_it_is(checkpoint: Path) -> None:
    engine = build(checkpoint, checkpoint.parent / "engine")
    written = {file: file.read_bytes() for file in engine.iterdir()}
    assert refusal(checkpoint, quant="int8").endswith("/engine already exists; choose another -o or pass --force.")
    assert {file: file.read_bytes() for file in engine.iterdir()} == written


def test_a_full_disk_is_seen_before_the_work(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(Checkpoint, "rows", lambda *_: pytest.fail("weights were read though nothing can be written"))
    message = refusal(checkpoint, tp_size=2)
    assert re.match(r"rank0\.safetensors needs [\d.]+ kB but only .* free in .*; free some space or choose", message)


def test_a_disk_that_fills_up_during_the_work(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems do that cannot reserve space."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    write, written = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        written.append(len(data))
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert "free some space" in refusal(checkpoint)
    assert len(written) == 6


def test_force_does_not_replace_a_folder_that_holds_the_checkpoint(tmp_path: Path) -> None:
    engine = build(tiny_checkpoint(tmp_path / "checkpoint").folder, tmp_path / "engine")
    inside = tiny_checkpoint(engine / "hf").folder
    with pytest.raises(BuildError, match=r"engine holds 'hf', which is no part of the engine, and is not replaced;"):
        build_engine(Checkpoint.open(inside), engine, BuildConfig(), force=True)
    assert (inside / "model.safetensors").is_file()
