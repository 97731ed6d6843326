"""Writing engine directories: whole or absent, whatever ends the build, and nobody else's folder is ever lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.checkpoint.engine_dir import EngineDir, EngineDirWriter
from llmserve.errors import BuildError

from .tiny_engine import build, manifest, names_in, write_shards


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return build(tmp_path / "engine")


# --- whole or absent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    writer = EngineDirWriter(tmp_path / "engine")
    with pytest.raises(error), writer:  # noqa: PT012 - the exception comes from within
        write_shards(writer.path)
        raise error
    assert names_in(tmp_path) == []


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with EngineDirWriter(tmp_path / "engine") as writer:
        write_shards(writer.path)
    assert names_in(tmp_path) == []


def test_a_missing_shard_is_a_bug_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tp_size=2 needs rank1\.safetensors"), EngineDirWriter(tmp_path / "e") as w:  # noqa: PT012
        write_shards(w.path, tp_size=1)
        w.finish(manifest(tp_size=2))
    assert names_in(tmp_path) == []


def test_a_failed_replacement_keeps_the_old_engine(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (engine / "engine.json").read_bytes()
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if ".building-" in Path(source).name:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(BuildError, match=r"cannot be written: Input/output error\."):
        build(engine, force=True, tp_size=1)
    assert (engine / "engine.json").read_bytes() == before
    assert names_in(engine.parent) == ["engine"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from llmserve.checkpoint.engine_dir import EngineDirWriter
from tiny_engine import manifest, write_shards

rename = os.rename
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def die_at_the_second(source, target):
    rename(source, target)
    os.rename = die

at = sys.argv[3]
with EngineDirWriter(sys.argv[1], force=True) as writer:
    write_shards(writer.path)
    if at == "before finish":
        die()
    if at == "waiting":
        print("ready", flush=True)
        sys.stdin.read()
    os.rename = die if at == "at the rename" else die_at_the_second
    writer.finish(manifest())
"""


def killed_build(target: Path, at: str) -> list[str]:
    return [sys.executable, "-c", KILLED, str(target), str(Path(__file__).parent), at]


@pytest.mark.parametrize("at", ["before finish", "at the rename"])
def test_kill_9_leaves_no_engine_and_the_next_build_cleans_up(at: str, tmp_path: Path) -> None:
    target = tmp_path / "engine"
    assert subprocess.run(killed_build(target, at)).returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(names_in(tmp_path)) == 1  # the hidden folder
    EngineDir.open(build(target)).verify()
    assert names_in(tmp_path) == ["engine"]


def test_kill_9_between_the_two_renames_of_a_replacement_loses_nothing(engine: Path) -> None:
    before = (engine / "engine.json").read_bytes()
    assert subprocess.run(killed_build(engine, "between")).returncode == -signal.SIGKILL
    assert not engine.exists()
    with pytest.raises(BuildError, match="already exists"):  # it is back
        build(engine)
    assert (engine / "engine.json").read_bytes() == before
    assert names_in(engine.parent) == ["engine"]


def test_two_builds_of_one_target_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    other = subprocess.Popen(killed_build(target, "waiting"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(BuildError, match=r"another build is writing .*engine \(in .*\); wait for it or choose"):
            build(target)
        build(tmp_path / "engine2")  # a target of its own
        assert (tmp_path / f".engine.building-{other.pid}" / "rank1.safetensors").exists()
    finally:
        other.kill()
        other.communicate()
    build(target)
    assert names_in(tmp_path) == ["engine", "engine2"]


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(fd: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def recorded_rename(source: Path, target: Path) -> None:
        events.append("renamed")
        rename(source, target)

    with EngineDirWriter(tmp_path / "engine") as writer:
        write_shards(writer.path)
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "rename", recorded_rename)
        writer.finish(manifest())
    shards = ["rank0.safetensors", "rank1.safetensors"]
    assert events == [*shards, "engine.json", writer.path.name, "renamed", tmp_path.name]


def test_without_folder_locks_the_process_id_tells_a_live_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", no_locks)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".engine.building-{ended.pid}").mkdir()
    (tmp_path / f".engine.building-{os.getpid()}").mkdir()  # an earlier life of our id
    (tmp_path / ".engine.building-notes").mkdir()  # none of ours
    build(tmp_path / "engine")
    assert names_in(tmp_path) == [".engine.building-notes", "engine"]
    (tmp_path / f".engine.building-{os.getppid()}").mkdir()
    with pytest.raises(BuildError, match="another build is writing"):
        build(tmp_path / "engine", force=True)


# --- force ---------------------------------------------------------------------------------------------------------


def test_an_existing_engine_needs_force(engine: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build(engine, tp_size=1)
    assert str(caught.value) == f"{engine} already exists; choose another -o or pass --force."
    assert EngineDir.open(engine).manifest.tp_size == 2
    build(engine, force=True, tp_size=1)
    assert EngineDir.open(engine).manifest.tp_size == 1
    assert names_in(engine) == ["engine.json", "rank0.safetensors"]
    assert names_in(engine.parent) == ["engine"]


def test_force_through_a_link_replaces_what_it_points_to(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(engine)
    build(tmp_path / "link", force=True, tp_size=1)
    assert (tmp_path / "link").is_symlink()
    assert EngineDir.open(engine).manifest.tp_size == 1


def test_force_never_deletes_a_strangers_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(
        BuildError, match="thesis is a folder but not an engine, and is not replaced; choose another -o"
    ):
        build(tmp_path / "thesis", force=True)
    with pytest.raises(BuildError, match=r"chapter1\.tex is a file; choose another -o"):
        build(tmp_path / "thesis" / "chapter1.tex", force=True)
    assert names_in(tmp_path / "thesis") == ["chapter1.tex"]
    (tmp_path / "empty").mkdir()
    EngineDir.open(build(tmp_path / "empty", force=True))


def test_a_target_that_appears_during_the_build_is_kept(tmp_path: Path) -> None:
    writer = EngineDirWriter(tmp_path / "engine")
    with pytest.raises(BuildError, match="already exists"), writer:  # noqa: PT012
        write_shards(writer.path)
        (tmp_path / "engine").mkdir()
        (tmp_path / "engine" / "mine").touch()
        writer.finish(manifest())
    assert names_in(tmp_path) == ["engine"]
    assert names_in(tmp_path / "engine") == ["mine"]


def test_a_mount_point_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "engine")
    with pytest.raises(BuildError, match="is a mount point, which cannot be replaced; choose a folder inside it as -o"):
        build(tmp_path / "engine", force=True)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot be made"):
        build(tmp_path / "file" / "engine")


def test_a_file_that_does_not_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("shutil.copyfile", full)
    with (
        pytest.raises(BuildError, match=r"tokenizer\.json needs 2 bytes but only"),
        EngineDirWriter(tmp_path / "e") as w,
    ):
        w.add_file(tmp_path / "tokenizer.json")
    assert names_in(tmp_path) == ["tokenizer.json"]


@pytest.mark.parametrize("folder", [True, False])
def test_force_never_deletes_what_is_not_the_engines(engine: Path, folder: bool) -> None:
    (engine / "thesis").mkdir() if folder else (engine / "thesis").touch()
    with pytest.raises(BuildError, match=r"holds 'thesis', which is no part of the engine, and is not replaced;"):
        build(engine, force=True, tp_size=1)
    assert (engine / "thesis").exists()
    assert EngineDir.open(engine).manifest.tp_size == 2


def test_force_does_not_replace_what_it_cannot_read(engine: Path) -> None:
    (engine / "engine.json").write_text("{")
    with pytest.raises(BuildError, match=r"is not replaced, as .* cannot be told \(.*\); .* remove it yourself\.") as e:
        build(engine, force=True)
    assert "\n" not in str(e.value)
    assert names_in(engine) == ["engine.json", "rank0.safetensors", "rank1.safetensors"]
