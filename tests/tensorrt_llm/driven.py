"""The engine over the stand-in's executor, in the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.checkpoint.source import Checkpoint
from llmserve.cli import DEMO
from llmserve.comm.plan_line import Speaker
from llmserve.config import EngineConfig, TensorRTLLMBuildConfig
from llmserve.request import Finish, Request, SamplingParams, TokenEvent
from llmserve.tensorrt_llm import build as build_module
from llmserve.tensorrt_llm import rank_build
from llmserve.tensorrt_llm.build import build_engine
from llmserve.tensorrt_llm.device import Gpu
from llmserve.tensorrt_llm.engine import Limits, TensorRTLLMEngine
from llmserve.tensorrt_llm.executor import make_executor
from tests.tensorrt_llm.standin import StandIn
from tests.tensorrt_llm.standin.in_process import installed

VOCABULARY, END, OTHER_END = 1680, 1679, 1677
PROMPT = tuple(range(6, 46))
GREEDY = SamplingParams(max_tokens=6, temperature=0)
LIMITS = Limits(1000, 4, 32, VOCABULARY, (END, OTHER_END))


def build_here(folder: Path) -> EngineDir:
    """For one rank; in this process, as a step in one of its own takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch, installed(StandIn(folder / "standin")):
        patch.setattr(rank_build, "use_gpu", lambda index: Gpu("GPU", 90, "", 1, 1))
        patch.setattr(build_module, "run_apart", lambda options, work: rank_build.run(options))
        config = TensorRTLLMBuildConfig(max_batch_size=4, max_num_tokens=64, max_seq_len=1000)
        build_engine(Checkpoint.open(DEMO), folder / "engine", config, say=print)
    return EngineDir.open(folder / "engine")


class Driven:
    """An engine, and the events that it has yielded."""

    def __init__(self, engine: TensorRTLLMEngine, stand_in: StandIn, woken: threading.Event) -> None:
        self.engine = engine
        self.stand_in = stand_in
        self.events: list[TokenEvent] = []
        self._woken = woken

    def run(self, *requests: Request) -> list[TokenEvent]:
        """All events of these, to their ends."""
        self.events = []
        for request in requests:
            self.engine.submit(request)
        self.until(lambda: not self.engine.has_work)
        return self.events

    def until(self, done: Any) -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, self.events
            assert self._woken.wait(20), "nobody was woken"
            self._woken.clear()
            self.events += self.engine.step()

    def asked(self) -> dict[str, Any]:
        """The last request as TensorRT-LLM was given it."""
        return self.stand_in.calls("enqueue_request")[-1]["request"]


@contextmanager
def driven(
    directory: EngineDir, folder: Path, *, speaker: Speaker | None = None, stall_timeout: float = 20, **settings: Any
) -> Iterator[Driven]:
    stand_in, woken = StandIn(folder / "standin", **settings), threading.Event()
    facts = directory.manifest.tensorrt_llm
    assert facts is not None
    with installed(stand_in):
        executor = make_executor(directory.path / "tensorrt_llm", facts, EngineConfig())
        engine = TensorRTLLMEngine(executor, LIMITS, woken.set, speaker=speaker, stall_timeout=stall_timeout)
        try:
            yield Driven(engine, stand_in, woken)
        finally:
            stand_in.switch("hang", False)
            engine.abort_all(Finish.ABORT)
            engine.close()
            executor.shutdown()


def expected(count: int, seed: int | None = None, prompt: tuple[int, ...] = PROMPT) -> list[int]:
    from tensorrt_llm import _answers

    return _answers.answer(prompt, count, VOCABULARY, seed)  # type: ignore[no-any-return]


def tokens(events: list[TokenEvent]) -> list[int | None]:
    return [event.token for event in events]
