"""What a rank of the user's own mpirun does where the front beside it cannot be started."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.config import EngineConfig, ServerConfig
from llmserve.engine import under_mpirun
from llmserve.engine.launch import front_command
from llmserve.errors import ConfigError
from llmserve.request import Pooling
from llmserve.server.main import FrontConfig


class Rank:
    def __init__(self) -> None:
        self.index = 0
        self.aborted = False

    def lead(self, link: object, shutdown_timeout: float) -> None:
        raise AssertionError("there is no front to lead for")

    def follow(self) -> None:
        raise AssertionError("rank 0 leads")

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("error", [TypeError("a bug"), OSError("no memory"), ConfigError("No."), KeyboardInterrupt()])
def test_no_rank_waits_for_a_front_that_did_not_start(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    rank = Rank()
    monkeypatch.setattr(under_mpirun, "die_with_parent", lambda number: None)
    monkeypatch.setattr(under_mpirun, "join", lambda engine, config: rank)
    monkeypatch.setattr(under_mpirun, "front_command", fail)
    assert under_mpirun.run_as_rank(Path("e"), EngineConfig(), ServerConfig()) == 1
    assert rank.aborted


def test_a_front_is_told_every_setting() -> None:
    server = ServerConfig(
        host="::1", port=1, served_model_name="ä", max_queue=2, shutdown_timeout=0.5, sse_ping_interval=3,
        chat_template=Path("a b/é.jinja"), tool_call_parser="hermes", reasoning_parser="think", pooling=Pooling.MEAN,
    )  # fmt: skip
    assert server.model_fields_set == set(ServerConfig.model_fields)
    told = FrontConfig.model_validate_json(front_command(Path("e"), "ipc://x", server)[-1])
    assert told == FrontConfig(engine=Path("e"), endpoint="ipc://x", server=server)
