"""The engine directory: written so that it is whole or absent, refused in one sentence if it is not whole.

    ENGINE/
      engine.json                      the Manifest; written last
      rank0.safetensors ...            one packed shard a rank
      tensorrt_llm/rank0.engine ...    in its place, where TensorRT-LLM is the executor: its own folder, as it writes it
      tokenizer files, generation_config.json

Knows nothing of what the tensors are for. Importing it does not import torch, so that a process that only wants to
check an engine stays small.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llmserve.checkpoint.disk import Progress, blake3_file, fsync_path, write_failed
from llmserve.config import FileRecord, Manifest
from llmserve.errors import BuildError, CheckpointError, EngineDirError

if TYPE_CHECKING:
    import torch

    from llmserve.checkpoint.tensor_header import TensorSpec

_MANIFEST = "engine.json"


TENSORRT_LLM = "tensorrt_llm"
"""The folder of an engine that TensorRT-LLM reads."""


def shard_name(rank: int) -> str:
    """Of a native engine."""
    return f"rank{rank}.safetensors"


def shard_names(manifest: Manifest) -> list[str]:
    """What each rank loads, in order."""
    ranks = range(manifest.tp_size)
    return [f"{TENSORRT_LLM}/rank{r}.engine" if manifest.tensorrt_llm else shard_name(r) for r in ranks]


@dataclass(frozen=True)
class EngineDir:
    """An engine whose manifest is valid and whose files are there in full; make one with `EngineDir.open`."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> EngineDir:
        """Checks the manifest and each file's presence and size, not its data. Raises EngineDirError."""
        path = Path(path)
        manifest = Manifest.read(path)
        for name in shard_names(manifest):
            if name not in manifest.files:
                raise EngineDirError(f"{path / _MANIFEST} does not list {name}; build the engine again.")
        for name, record in manifest.files.items():
            parts = name.split("/")
            if len(parts) > 2 or {"", ".", ".."} & set(parts):
                raise EngineDirError(f"{path / _MANIFEST} lists {name!r}, not a file name; build the engine again.")
            file = path / name
            if not file.is_file():
                raise EngineDirError(f"{file} is missing; build the engine again or copy it again.")
            if (size := file.stat().st_size) != record.size:
                raise EngineDirError(
                    f"{file} has {size} bytes where {_MANIFEST} says {record.size}; "
                    "build the engine again or copy it again."
                )
        return EngineDir(path, manifest)

    def check_ranks(self, world_size: int) -> None:
        """Raises EngineDirError unless `world_size` ranks are what this engine was built for."""
        built_for = self.manifest.tp_size
        if world_size != built_for:
            running = "1 rank is" if world_size == 1 else f"{world_size} ranks are"
            raise EngineDirError(
                f"{self.path} was built for tp_size={built_for} but {running} running; start it with "
                f"`mpirun -n {built_for} llmserve run {self.path}`, or with `llmserve run {self.path}`, which starts "
                "the ranks itself."
            )

    def require_native(self) -> None:
        """Raises EngineDirError unless it is an engine of our own: what is done with it reads its shards."""
        if self.manifest.executor != "native":
            raise EngineDirError(
                f"{self.path} is an engine of {self.manifest.executor}, which can only be served (`llmserve run "
                f"{self.path}`)."
            )

    def verify(self, names: Iterable[str] | None = None, progress: Progress | None = None, *, threads: int = 1) -> None:
        """Compares the files of these names (None: all) with their BLAKE3. Raises EngineDirError at the first altered.

        One file after the other, each on so many `threads`. `progress` is called with the bytes checked so far, of the
        sum of these files' sizes.
        """
        done = 0
        for name in self.manifest.files if names is None else names:
            record, file = self.manifest.files[name], self.path / name
            try:
                digest = blake3_file(file, threads, progress, done)
            except OSError as e:
                raise EngineDirError(f"{file} cannot be read: {e.strerror or e}.") from None
            if digest != record.blake3:
                raise EngineDirError(
                    f"{file} was altered: its blake3 is {digest[:16]}…, {_MANIFEST} says {record.blake3[:16]}…; "
                    "build the engine again or copy it again."
                )
            done += record.size

    def shard(self, rank: int) -> dict[str, torch.Tensor]:
        """A rank's tensors, backed by the file: nothing is copied, and the ranks of one host share its pages.

        The mapping is private: writing to a tensor never reaches the file. Raises EngineDirError if it is damaged or
        says itself that it is another rank's.
        """
        from safetensors import SafetensorError, safe_open

        file = self.path / shard_name(rank)
        try:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                written_for = (tensors.metadata() or {}).get("rank", str(rank))
                if written_for != str(rank):
                    raise EngineDirError(
                        f"{file} is the shard of rank {written_for:.20}, not of rank {rank}; build the engine again or "
                        "copy it again."
                    )
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - it is no dict
        except (SafetensorError, OSError) as e:
            raise EngineDirError(f"{file} cannot be loaded ({e}); build the engine again or copy it again.") from None

    def tensor_specs(self, rank: int) -> dict[str, TensorSpec]:
        """What is in a rank's shard, from its header alone. Raises EngineDirError if it is damaged."""
        from llmserve.checkpoint.tensor_file import TensorFileReader

        try:
            return TensorFileReader(self.path / shard_name(rank)).specs
        except CheckpointError as e:
            raise EngineDirError(str(e)) from None


class EngineDirWriter:
    """A new engine, built in a hidden folder beside `target` and renamed to `target` when whole.

        with EngineDirWriter(target) as writer:
            ...                        # write rank*.safetensors into writer.path; writer.add_file(tokenizer)
            writer.finish(manifest)    # from here on the engine stands at `target`

    Leaving without `finish`, by an exception or not, leaves nothing behind. Whatever a killed build could not remove
    is removed by the next build of the same target; a build still alive is recognised by its lock on the folder, which
    the kernel drops with the process. With `force`, an engine at `target` is replaced; anything else never is, and no
    engine in whose folder somebody keeps other files.

    Raises BuildError, one sentence, if `target` cannot be written, already when the context is entered.
    """

    def __init__(self, target: str | Path, force: bool = False) -> None:
        self.target = Path(os.path.realpath(target))
        self.path = self.target.parent / f".{self.target.name}.building-{os.getpid()}"
        self._force = force
        self._lock = -1

    def __enter__(self) -> EngineDirWriter:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            self._check_target()
            self.path.mkdir()
            self._lock = _lock_folder(self.path)
        except OSError as e:
            raise BuildError(f"{self.path} cannot be made: {e.strerror or e}.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # after `finish` there is none
        os.close(self._lock)

    def add_file(self, source: Path) -> None:
        """Copies a file into the engine under its own name. Raises BuildError."""
        copy, size = self.path / source.name, source.stat().st_size
        try:
            shutil.copyfile(source, copy)
        except OSError as e:
            raise write_failed(e, copy, size) from None

    def finish(self, manifest: Manifest, progress: Progress | None = None) -> Manifest:
        """Records every file's size and BLAKE3, makes all durable, writes engine.json and puts the engine in place.

        `manifest.files` is ignored and filled in; returns the manifest as written. `progress` is called with the bytes
        hashed so far, of the sum of the files' sizes. Raises BuildError.
        """
        files: dict[str, FileRecord] = {}
        done, threads = 0, len(os.sched_getaffinity(0))  # nothing else has work by now
        try:
            for file in sorted(self.path.rglob("*")):
                fsync_path(file)
                if file.is_dir():
                    continue
                name = file.relative_to(self.path).as_posix()
                digest = blake3_file(file, threads, progress, done)
                files[name] = FileRecord(size=file.stat().st_size, blake3=digest)
                done += files[name].size
            if missing := [name for name in shard_names(manifest) if name not in files]:
                raise ValueError(f"an engine of tp_size={manifest.tp_size} needs {', '.join(missing)}")
            manifest = manifest.model_copy(update={"files": files})
            (self.path / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
            fsync_path(self.path / _MANIFEST)
            fsync_path(self.path)
            self._check_target()
            self._publish()
        except OSError as e:
            raise write_failed(e, self.target, done) from None
        return manifest

    @property
    def _aside(self) -> Path:
        """Where the engine that is being replaced stands for a moment, between two renames."""
        return self.target.parent / f".{self.target.name}.replaced"

    def _check_target(self) -> None:
        target = self.target
        if not target.exists():
            return
        if not self._force:
            raise BuildError(f"{target} already exists; choose another -o or pass --force.")
        if not target.is_dir():
            raise BuildError(f"{target} is a file; choose another -o.")
        if target.is_mount():
            raise BuildError(f"{target} is a mount point, which cannot be replaced; choose a folder inside it as -o.")
        if any(target.iterdir()) and not (target / _MANIFEST).is_file():
            raise BuildError(f"{target} is a folder but not an engine, and is not replaced; choose another -o.")
        if any(target.iterdir()):
            self._check_nothing_else(target)

    def _check_nothing_else(self, engine: Path) -> None:
        """Replacing an engine deletes its folder, so that all in it has to be the engine's own."""
        try:
            listed = {_MANIFEST, *Manifest.read(engine).files}
        except EngineDirError as e:
            raise BuildError(
                f"{engine} is not replaced, as what belongs to the engine in it cannot be told ({str(e).rstrip('.')}); "
                "choose another -o or remove it yourself."
            ) from None
        folders = {name.rpartition("/")[0] for name in listed}
        for entry in sorted(engine.rglob("*")):
            name = entry.relative_to(engine).as_posix()
            if name not in (folders if entry.is_dir() and not entry.is_symlink() else listed):
                raise BuildError(
                    f"{engine} holds {name!r}, which is no part of the engine, and is not replaced; choose "
                    "another -o or move that out of it."
                )

    def _publish(self) -> None:
        """Folders cannot be exchanged portably, so that for a moment, with `force`, neither engine is in place.

        A build killed in that moment leaves the old one aside, from where the next build puts it back.
        """
        replacing = self.target.exists()
        try:
            if replacing:
                os.rename(self.target, self._aside)
            os.rename(self.path, self.target)
        except BaseException:  # a signal between the two, too
            if replacing and not self.target.exists():
                os.rename(self._aside, self.target)
            raise
        fsync_path(self.target.parent)
        shutil.rmtree(self._aside, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        prefix = f".{self.target.name}.building-"
        for folder in self.target.parent.iterdir():
            if not (folder.name.startswith(prefix) and folder.name.removeprefix(prefix).isdigit()):
                continue
            try:
                lock = _lock_folder(folder)
            except BlockingIOError:
                raise BuildError(
                    f"another build is writing {self.target} (in {folder}); wait for it or choose another -o."
                ) from None
            except FileNotFoundError:  # it ended just now
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        if self._aside.exists():
            if self.target.exists():
                shutil.rmtree(self._aside, ignore_errors=True)
            else:
                os.rename(self._aside, self.target)


def _lock_folder(folder: Path) -> int:
    """An open descriptor that holds the folder's lock. Raises BlockingIOError while another process holds it.

    A file system without such locks (NFS) leaves the process id in the folder's name to tell a live build.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:
        pid = int(folder.name.rpartition("-")[2])
        if pid != os.getpid() and _is_alive(pid):
            os.close(fd)
            raise BlockingIOError(errno.EWOULDBLOCK, "a live process owns it") from None
    return fd


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
