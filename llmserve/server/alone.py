"""`llmserve run ENGINE` by itself: the front is the parent, and starts the engine's ranks under the installed MPI."""

from __future__ import annotations

from pathlib import Path

import uvloop

from llmserve.config import EngineConfig, Manifest, ServerConfig
from llmserve.engine.endpoint import private_endpoint
from llmserve.engine.group import EngineGroup
from llmserve.server.main import FrontConfig, serve


def run_alone(engine: Path, config: EngineConfig, server: ServerConfig) -> int:
    """Returns the exit code. Raises LlmserveError for what can be told before there is a port."""
    manifest = Manifest.read(engine)
    if manifest.executor == "native":
        config.require_native()
        config.longest(manifest.model)
    with private_endpoint() as endpoint:

        async def engine_process() -> int:
            async with EngineGroup(engine, config, endpoint) as group:
                return await group.wait()

        return uvloop.run(serve(FrontConfig(engine=engine, endpoint=endpoint, server=server), engine_process))
