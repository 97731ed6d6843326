"""An engine without a server: requests in, all their token events out. For scripts and tests, in one process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.comm.solo import SoloComm
from llmserve.config import EngineConfig
from llmserve.engine.grammars import library_of
from llmserve.engine.native import NativeEngine
from llmserve.request import Request, TokenEvent
from llmserve.runtime.load import device_of, load_runner, spares_a_core, use_threads


class OfflineEngine:
    """tp_size 1 only; `Request.id`s must be unique over its life."""

    def __init__(self, engine: Path, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        config.require_native()
        directory = EngineDir.open(engine)
        directory.require_native()
        directory.check_ranks(1)
        allowed = os.sched_getaffinity(0)
        cores = use_threads(config.threads, allowed, 0, 1)
        comm = SoloComm()
        device = device_of(directory.manifest, 0)
        loaded = load_runner(directory, config, comm, device, cores)
        grammars = library_of(engine, directory.manifest)
        spare = spares_a_core(device, len(cores), 1, allowed)
        self.engine = NativeEngine(loaded, comm, config, grammars=grammars, spare_core=spare)

    def generate(self, requests: Iterable[Request]) -> dict[int, list[TokenEvent]]:
        """Run all to their ends, batched in flight → events by request id, in order."""
        events: dict[int, list[TokenEvent]] = {}
        for request in requests:
            events[request.id] = []
            self.engine.submit(request)
        while self.engine.has_work:
            for event in self.engine.step():
                events[event.request_id].append(event)
        return events

    def tokens(self, requests: Iterable[Request]) -> dict[int, list[int]]:
        """As `generate`, but only the token ids."""
        return {i: [e.token for e in es if e.token is not None] for i, es in self.generate(requests).items()}
