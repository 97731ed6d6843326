"""What TensorRT-LLM does not notice: a rank that died, and work that stands still. Either ends the engine.

The guard's thread sees it and wakes rank 0's loop, which then hears of it by `check`, tells the front and ends all
ranks. Where the loop itself does not come round, the thread ends the process, and the front draws its own conclusion.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from llmserve.comm.plan_line import Speaker
from llmserve.errors import EngineDeadError
from llmserve.tensorrt_llm.ranks import ask_for_stacks

log = logging.getLogger("llmserve.engine")

INTERVAL = 0.2
GRACE = 3.0
"""Seconds that the loop gets to end everything in order."""


class Guard:
    def __init__(
        self, speaker: Speaker | None, stalled_for: Callable[[], float], stall_timeout: float, wake: Callable[[], None]
    ) -> None:
        """`stalled_for`: for how many seconds there has been work and no progress."""
        self._speaker = speaker
        self._stalled_for = stalled_for
        self._stall_timeout = stall_timeout
        self._wake = wake
        self._reason: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises EngineDeadError where the engine cannot go on."""
        if self._reason is not None:
            raise EngineDeadError(self._reason)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._reason = self._look()
            if self._reason is not None:
                self._wake()
                if not self._stop.wait(GRACE):
                    log.error("%s", self._reason)
                    os._exit(1)

    def _look(self) -> str | None:
        if self._speaker is None:
            time.sleep(INTERVAL)
        elif self._speaker.lost_one(INTERVAL):
            return "another rank of the engine is gone; its own last messages may say why."
        if self._stalled_for() < self._stall_timeout:
            return None
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        if self._speaker is not None:
            with contextlib.suppress(EngineDeadError):  # a rank that is gone has none
                ask_for_stacks(self._speaker)
        return (
            f"TensorRT-LLM made no step for {self._stall_timeout:g} s although there is work (--stall-timeout); the "
            "log has every thread's stack."
        )
