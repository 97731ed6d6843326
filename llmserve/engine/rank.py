"""A rank's life, from its options to its exit code: join the others, then lead (rank 0) or follow.

Exit codes: 0 after an orderly stop, 1 after an error that was said in one sentence. Knows nothing of how an engine
computes; that is for whoever it finds in `join`.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import Protocol

from llmserve.config import EngineConfig, Manifest
from llmserve.engine.launch import RankOptions, die_with_parent
from llmserve.engine.link import FrontLink
from llmserve.engine.messages import Failed
from llmserve.errors import EngineStartError, LlmserveError
from llmserve.logs import setup_logging

log = logging.getLogger("llmserve.engine")


class AnyRank(Protocol):
    """This process among the ranks of one engine, whatever executes it."""

    index: int

    def lead(self, link: FrontLink, shutdown_timeout: float) -> None:
        """Rank 0's work, until it is told to stop."""

    def follow(self) -> None:
        """Every other rank's work, until rank 0 sends it home."""

    def abort(self) -> None:
        """End every rank at once. Does not return."""


def run_rank(rank: AnyRank, link: FrontLink | None, shutdown_timeout: float) -> int:
    """Lead (with a link) or follow; where that fails, say why and end all ranks."""
    try:
        if link:
            rank.lead(link, shutdown_timeout)
            link.close()
        else:
            rank.follow()
        return 0
    except EngineStartError as e:
        if link:  # which says it to the user
            link.send(Failed(str(e)))
            link.close()
        return 1
    except LlmserveError as e:
        error = str(e)
    except Exception:
        traceback.print_exc()
        error = "the engine failed inside a step; its log has the traceback."
    log.error("rank %d: %s", rank.index, error)
    if link:
        link.send(Failed(error))
        link.close()
    rank.abort()
    return 1


def join(engine: Path, config: EngineConfig) -> AnyRank | None:
    """This process as a rank of the engine; None, said once, where it cannot be one.

    What executes the engine is imported here: either takes its time and is of no use to the other.
    """
    if _executor(engine) == "tensorrt-llm":
        from llmserve.tensorrt_llm.rank import join_tensorrt_llm

        return join_tensorrt_llm(engine, config)
    from llmserve.engine.native_rank import join_native

    return join_native(engine, config)


def _executor(engine: Path) -> str:
    try:
        return Manifest.read(engine).executor
    except LlmserveError:
        return "native"  # which says once, over all ranks, what is wrong with it


def main() -> int:
    """As `python -m llmserve.engine.rank OPTIONS`, started by whoever holds the front, and told by it when to stop.

    A signal is no such wish here: it is how mpirun ends the ranks when one has died.
    """
    die_with_parent(signal.SIGKILL)
    options = RankOptions.model_validate_json(sys.argv[1])
    setup_logging(options.log_level)
    rank = join(Path(options.engine), options.config)
    if rank is None:
        return 1
    link = FrontLink(options.endpoint) if rank.index == 0 else None
    return run_rank(rank, link, shutdown_timeout=0)


if __name__ == "__main__":
    sys.exit(main())
