"""A rank of the user's own `mpirun -n N llmserve run`. Rank 0 starts the front as its child.

The front gets a session of its own: mpirun kills a rank's process group when another rank dies, and the front has to
outlive that by the moment it takes to tell every client.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path

from llmserve.config import EngineConfig, ServerConfig
from llmserve.engine.endpoint import private_endpoint
from llmserve.engine.launch import STOP_SIGNALS, allowed_cores, die_with_parent, front_command, rank_environment
from llmserve.engine.link import FrontLink
from llmserve.engine.rank import AnyRank, join, run_rank
from llmserve.errors import LlmserveError

log = logging.getLogger("llmserve.engine")

FRONT_PATIENCE = 10.0
"""Seconds the front gets to flush its last responses once the engine has stopped."""


def run_as_rank(engine: Path, config: EngineConfig, server: ServerConfig) -> int:
    """Returns this rank's exit code."""
    die_with_parent(signal.SIGKILL)  # a killed mpirun kills nobody; the front hears of our end by itself
    rank = join(engine, config)
    if rank is None:
        return 1
    if rank.index != 0:
        return run_rank(rank, None, server.shutdown_timeout)
    try:
        return _lead(rank, engine, server)
    except BaseException as e:  # the others have joined and wait for a first plan
        log.error("%s", e if isinstance(e, LlmserveError) else "rank 0 failed; here is where.", exc_info=_unsaid(e))
        rank.abort()
        return 1


def _lead(rank: AnyRank, engine: Path, server: ServerConfig) -> int:
    with private_endpoint() as endpoint:
        front = _start_front(engine, endpoint, server)
        link = FrontLink(endpoint, front)
        link.watch(*STOP_SIGNALS)
        code = run_rank(rank, link, server.shutdown_timeout)
        try:
            return code or front.wait(FRONT_PATIENCE)
        except subprocess.TimeoutExpired:
            log.error("the front did not end within %.0f s; it is killed.", FRONT_PATIENCE)
            front.kill()
            return 1


def _unsaid(error: BaseException) -> BaseException | None:
    """What a user's sentence does not say."""
    return None if isinstance(error, LlmserveError) else error


def _start_front(engine: Path, endpoint: str, server: ServerConfig) -> subprocess.Popen[bytes]:
    def free_of_binding() -> None:
        os.sched_setaffinity(0, allowed_cores())  # mpirun may have bound rank 0 to one core

    return subprocess.Popen(
        front_command(engine, endpoint, server),
        env=rank_environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=free_of_binding,
    )
