"""The front as a process: what it says, whom it waits for, and the exit code it ends with."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmserve.config import EngineConfig, FileRecord, ServerConfig
from llmserve.engine.messages import Drain, Submit
from llmserve.errors import ConfigError, EngineDirError
from llmserve.server.alone import run_alone

from .conftest import TEMPLATE, TOKENIZER, make_backend, manifest, text_by_seed
from .fake_engine import READY, FakeEngine, wait_for

HI = [{"role": "user", "content": "hi"}]


class Process:
    """A front in a process of its own, and its log as it grows."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def url(self) -> str:
        return wait_for(lambda: re.search(r"Listening on (http://\S+) \(loading", self.log))[1]

    def exit_code(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        return code


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    make_backend().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    files = {file.name: FileRecord(size=file.stat().st_size, blake3="") for file in folder.iterdir()}
    (folder / "tokenizer_config.json").write_text("a stray file, which nobody reads", "utf-8")
    (folder / "engine.json").write_text(manifest(files=files).model_dump_json(), "utf-8")
    return folder


@pytest.fixture
def config(engine_dir: Path, endpoint: str) -> dict[str, Any]:
    server = {"host": "127.0.0.1", "port": 0, "shutdown_timeout": 100}
    return {"engine": str(engine_dir), "endpoint": endpoint, "server": server}


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts fronts, and leaves none behind."""
    started: list[Process] = []

    def start(config: dict[str, Any] | str, command: tuple[str, ...] = ("-m", "llmserve.server.main")) -> Process:
        started.append(Process([*command, config if isinstance(config, str) else json.dumps(config)]))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


def ready_engine(process: Process, config: dict[str, Any]) -> FakeEngine:
    engine = FakeEngine(config["endpoint"], text_by_seed)
    engine.say(READY)
    wait_for(lambda: "Ready: " in process.log)
    return engine


def test_it_serves_and_stops_when_asked(start: Any, config: dict[str, Any]) -> None:
    process = start(config)
    url = process.url()
    assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "loading"  # the engine has not even connected
    engine = ready_engine(process, config)
    engine.allowance = 5
    lines: list[str] = []
    streaming = threading.Thread(target=lambda: lines.extend(read_stream(url, max_tokens=30)))
    streaming.start()
    engine.seen(Submit)
    process.process.send_signal(signal.SIGTERM)
    engine.seen(Drain)
    assert httpx.post(f"{url}/v1/completions", json={"prompt": "x"}, timeout=60).status_code == 503
    assert httpx.get(f"{url}/health", timeout=60).json() == {"status": "draining"}
    engine.allowance = None
    assert process.exit_code() == 0
    streaming.join()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def read_stream(url: str, **body: Any) -> list[str]:
    asked = {"messages": HI, "stream": True, **body}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60) as response:
        return [line for line in response.iter_lines() if line]


def test_when_the_engine_dies_every_stream_is_told_and_the_exit_code_is_1(start: Any, config: dict[str, Any]) -> None:
    process = start(config)
    url = process.url()
    engine = ready_engine(process, config)
    engine.allowance = 5
    lines: list[str] = []
    streaming = threading.Thread(target=lambda: lines.extend(read_stream(url)))
    streaming.start()
    engine.seen(Submit)
    engine.disconnect()
    assert process.exit_code() == 1
    streaming.join()
    assert lines[-1] == "data: [DONE]"
    assert "engine stopped unexpectedly" in lines[-2]
    assert "engine stopped unexpectedly" in process.log


def test_a_second_signal_does_not_wait(start: Any, config: dict[str, Any]) -> None:
    process = start(config)
    process.url()
    engine = ready_engine(process, config)
    engine.allowance = 0
    lines: list[str] = []
    streaming = threading.Thread(target=lambda: lines.extend(read_stream(process.url())))
    streaming.start()
    engine.seen(Submit)
    process.process.send_signal(signal.SIGINT)
    engine.seen(Drain)
    process.process.send_signal(signal.SIGINT)
    assert process.exit_code() == 0
    streaming.join()
    assert '"error"' in lines[-2]
    assert lines[-1] == "data: [DONE]"
    engine.disconnect()


def test_a_stop_while_loading_is_a_wanted_stop(start: Any, config: dict[str, Any]) -> None:
    process = start(config)
    process.url()
    wait_for(lambda: httpx.get(f"{process.url()}/health", timeout=60).status_code == 503)
    process.process.send_signal(signal.SIGTERM)
    assert process.exit_code() == 0


def test_an_engine_that_never_comes(start: Any, config: dict[str, Any]) -> None:
    process = start(config | {"connect_timeout": 0.2})
    assert process.exit_code() == 1
    assert "No engine connected to ipc://" in process.log


def test_a_port_in_use_is_one_sentence(start: Any, config: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start(config | {"server": {"host": "127.0.0.1", "port": port}})
        assert process.exit_code() == 1
    assert process.log.count("\n") == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in process.log


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"engine": "/nowhere"}, "/nowhere does not exist; make an engine"),
        ({"endpoint": "ipc:///nowhere/at/all"}, "Cannot wait for the engine at ipc:///nowhere"),
        ({"port": 80}, "one JSON argument: port"),
        ({"server": {"host": "fe80::1%nowhere"}}, "Cannot listen on fe80::1%nowhere: Name or service"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    start: Any, config: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    process = start(config | change)
    assert process.exit_code() == 1
    assert ("Listening on" in process.log) == ("endpoint" in change), "what is known before is said before"
    assert sentence in process.log
    assert "Traceback" not in process.log


def test_a_chat_template_of_the_operator(start: Any, config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("mine: {{ messages[0].content }}", "utf-8")
    config["server"]["chat_template"] = str(file)
    process = start(config)
    url = process.url()
    engine = ready_engine(process, config)
    assert f"Chat prompts: the template {file}" in process.log
    asked = {"messages": HI, "max_tokens": 1}
    assert httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).status_code == 200
    assert TOKENIZER.decode(engine.seen(Submit).request.prompt) == "mine: hi"


@pytest.mark.parametrize("content", [None, "{% if %}"])
def test_a_chat_template_that_cannot_be_used_is_one_sentence(
    start: Any, config: dict[str, Any], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_text(content, "utf-8")
    config["server"]["chat_template"] = str(file)
    process = start(config)
    assert process.exit_code() == 1
    assert f"--chat-template {file} cannot be used: " in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    "asked, problem",
    [
        ({"max_model_len": 10**6}, "--max-model-len 1000000 exceeds the "),
        ({"stall_timeout": 3.0}, "--stall-timeout is for engines of tensorrt-llm only"),
    ],
)
def test_settings_that_the_model_does_not_have_are_refused_before_there_is_a_port(
    engine_dir: Path, asked: dict[str, Any], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=problem):
        run_alone(engine_dir, EngineConfig(**asked), ServerConfig(port=0))
    with pytest.raises(EngineDirError, match="nowhere does not exist; make an engine"):
        run_alone(engine_dir / "nowhere", EngineConfig(), ServerConfig(port=0))
    assert "Listening" not in caplog.text


def test_a_chat_template_without_a_tokenizer_is_one_sentence(
    start: Any, config: dict[str, Any], engine_dir: Path
) -> None:
    (engine_dir / "engine.json").write_text(manifest(tokenizer_sha256=None).model_dump_json(), "utf-8")
    config["server"]["chat_template"] = "mine.jinja"
    process = start(config)
    assert process.exit_code() == 1
    assert f"--chat-template mine.jinja is of no use: {engine_dir} has no tokenizer." in process.log


ALONE = """
import asyncio, logging, sys
from llmserve.server.main import FrontConfig, serve

logging.basicConfig(level=logging.INFO)

async def engine():
    try:
        await asyncio.sleep({seconds})
        return 3
    finally:
        logging.info("the engine was ended")

sys.exit(asyncio.run(serve(FrontConfig.model_validate_json(sys.argv[1]), engine)))
"""


def test_as_the_parent_it_sees_the_engines_exit(start: Any, config: dict[str, Any]) -> None:
    process = start(config, ("-c", ALONE.format(seconds=0.1)))
    assert process.exit_code() == 1
    assert "The engine ended with exit code 3" in process.log


def test_as_the_parent_it_ends_the_engine_before_itself(start: Any, config: dict[str, Any]) -> None:
    process = start(config, ("-c", ALONE.format(seconds=100)))
    process.url()
    wait_for(lambda: httpx.get(f"{process.url()}/health", timeout=60).status_code == 503)
    process.process.send_signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert "the engine was ended" in process.log


def test_the_front_imports_nothing_heavy() -> None:
    code = (
        "import sys, llmserve.server.main; "
        "heavy = {'torch', 'numpy', 'transformers', 'safetensors'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
