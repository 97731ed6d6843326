"""A rank of the native engine: load with the others, then lead (rank 0) or follow."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llmserve.checkpoint.engine_dir import EngineDir, shard_name
from llmserve.comm import Comm
from llmserve.comm.mpi import MpiComm
from llmserve.comm.nccl import NcclComm
from llmserve.comm.solo import SoloComm
from llmserve.config import EngineConfig
from llmserve.engine.grammars import library_of
from llmserve.engine.launch import STOP_SIGNALS, allowed_cores, launched_by_mpi
from llmserve.engine.link import FrontLink
from llmserve.engine.messages import Loading, Ready
from llmserve.engine.native import NativeEngine, worker_loop
from llmserve.engine.serve import EngineLoop
from llmserve.errors import EngineStartError, LlmserveError
from llmserve.runtime.load import Loaded, choose_instruction_set, device_of, load_runner, spares_a_core, use_threads
from llmserve.runtime.model_runner import Runner

log = logging.getLogger("llmserve.engine")


BytesDone = Callable[[int], None]
T = TypeVar("T")


class Rank:
    """A rank of the native engine. Raises LlmserveError in one sentence where they do not fit it."""

    def __init__(self, engine: Path, config: EngineConfig, mpi: MpiComm | None) -> None:
        self.index = mpi.rank if mpi else 0
        self.config = config
        config.require_native()
        self.directory = EngineDir.open(engine)
        self.directory.check_ranks(mpi.size if mpi else 1)
        self.device = device_of(self.directory.manifest, mpi.local_rank if mpi else 0)
        place = (mpi.local_rank, mpi.local_size) if mpi else (0, 1)
        self.cores = use_threads(config.threads, allowed_cores(), *place)
        self.spare_core = spares_a_core(self.device, len(self.cores), place[1], allowed_cores())
        self.comm: Comm = mpi or SoloComm()
        self._runner: Runner | None = None
        if mpi and mpi.size > 1 and self.device.type == "cuda":
            self.comm = NcclComm(mpi, self.device)

    def load(self, progress: BytesDone) -> Loaded:
        """Verify and load this rank's shard; returns when every rank has. EngineStartError where one could not."""
        # One after the other: ranks that load may talk to each other, so none may be missing by then.
        started = time.monotonic()
        threads = len(set(self.cores))  # all ranks of a host do this at once, each with the cores it will compute on
        self._agree(lambda: self.directory.verify(self._files_to_verify(), progress, threads=threads))
        verified = time.monotonic()
        self._agree_on_kernels()
        loaded = self._agree(lambda: load_runner(self.directory, self.config, self.comm, self.device, self.cores))
        self._runner = loaded.runner
        if self.index == 0:
            log.info("checksums took %.1f s, loading %.1f s", verified - started, time.monotonic() - verified)
        return loaded

    def _agree_on_kernels(self) -> None:
        """Ranks that compute differently would wait for each other in different places."""
        chosen = self._agree(lambda: choose_instruction_set(self.config.kernels, self.device))
        names = self.comm.all_gather_text(chosen.name if chosen else "reference")
        if len(set(names)) > 1:
            told = ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(names))
            raise EngineStartError(
                f"the ranks' hosts have different kernels ({told}); start all with the same --kernels."
            )

    def _agree(self, work: Callable[[], T]) -> T:
        """What `work` returns, once it has succeeded on every rank. EngineStartError on all where it failed on one."""
        done: list[T] = []
        problem = ""
        try:
            done.append(work())
        except LlmserveError as e:
            problem = str(e)
        problems = [(rank, text) for rank, text in enumerate(self.comm.all_gather_text(problem)) if text]
        if problems:
            rank, text = problems[0]
            raise EngineStartError(text if len(problems) == self.comm.size else f"rank {rank}: {text}")
        return done[0]

    def _files_to_verify(self) -> list[str]:
        """This rank's shard, unless that is not wanted; and for rank 0 the small files that text depends on."""
        files = self.directory.manifest.files
        small = [name for name in files if not name.startswith("rank")] if self.index == 0 else []
        return small + ([shard_name(self.index)] if self.config.verify else [])

    def lead(self, link: FrontLink, shutdown_timeout: float) -> None:
        """Rank 0's work, until it is told to stop."""
        manifest = self.directory.manifest
        total = sum(manifest.files[name].size for name in self._files_to_verify())
        link.send(Loading("loading", 0, total))
        grammars = library_of(self.directory.path, manifest)
        grammars.begin()  # nobody waits for this process yet
        loaded = self.load(lambda done: link.send(Loading("loading", done, total)))
        kv = loaded.kv
        engine = NativeEngine(loaded, self.comm, self.config, grammars=grammars, spare_core=self.spare_core)
        log.info(
            "ready: %d rank(s) on %s with %d thread(s) each; KV cache of %d tokens in blocks of %d (%.1f MB per rank), "
            "at most %d tokens a sequence",
            manifest.tp_size, manifest.device, len(self.cores), kv.num_tokens, kv.block_size,
            kv.num_blocks * kv.block_bytes / 1e6, kv.max_model_len,
        )  # fmt: skip
        told = "while one is computed, as with --overlap" if engine.overlap else "between two, as with --no-overlap"
        log.info("steps are prepared %s", told)
        EngineLoop(engine, link, shutdown_timeout).run(
            Ready(
                max_model_len=kv.max_model_len,
                max_num_seqs=self.config.max_num_seqs,
                kv_cache_tokens=kv.num_tokens,
                block_size=kv.block_size,
                tp_size=manifest.tp_size,
                device=manifest.device,
            )
        )
        engine.close()

    def follow(self) -> None:
        """Every other rank's work. Signals are rank 0's to answer: it sends the others home."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        worker_loop(self.comm, self.load(lambda done: None).runner)

    def abort(self) -> None:
        """End every rank at once. Does not return."""
        if self._runner:
            self._runner.abort()
        self.comm.abort(1)


def join_native(engine: Path, config: EngineConfig) -> Rank | None:
    """This process as a rank; None, said once, where it cannot be one. Every rank finds the same."""
    mpi = MpiComm() if launched_by_mpi() else None
    try:
        return Rank(engine, config, mpi)
    except LlmserveError as e:
        if mpi is None or mpi.rank == 0:
            log.error("%s", e)
        return None
