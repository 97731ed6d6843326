"""The front process: listens at once, waits for its engine, serves, and ends as the engine ends.

Its exit code is 0 after a wanted stop, and 1 when the engine died or never came. Two ways in:

* the engine's rank 0 started it (as `python -m llmserve.server.main JSON` would, with FrontConfig's fields): it lives
  until the engine's connection ends, and long enough beyond to tell every client why;
* it is the parent: `serve` is given `engine_process`, which starts the engine and reports its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop
from pydantic import Field, ValidationError

from llmserve.config import Frozen, Manifest, ServerConfig, first_problem
from llmserve.engine.launch import STOP_SIGNALS
from llmserve.engine.messages import Failed, Loading, Stopped
from llmserve.errors import ConfigError, LlmserveError
from llmserve.logs import setup_logging
from llmserve.server.app import create_app
from llmserve.server.engine_client import EngineClient, NotReadyError
from llmserve.server.listen import HttpServer, listen, url
from llmserve.tokenizer import Tokenizer

logger = logging.getLogger("llmserve.server")

EngineProcess = Callable[[], Awaitable[int]]
"""Starts the engine and returns its exit code when it has ended; cancelling it ends the engine."""

GRACE_S = 5.0
"""What the engine gets beyond the time it was given to stop, before it counts as dead."""


class FrontConfig(Frozen):
    """What a front needs to know."""

    engine: Path  # the engine directory: manifest and tokenizer are read from it
    endpoint: str  # where the engine connects to: ipc://...
    server: ServerConfig = ServerConfig()
    connect_timeout: float = Field(default=30.0, gt=0)  # seconds; only where the engine is not started from here


async def serve(config: FrontConfig, engine_process: EngineProcess | None = None) -> int:
    """Runs a front from beginning to end and returns its exit code."""
    try:
        manifest = Manifest.read(config.engine)  # before anybody is told that there is a server
        with contextlib.closing(listen(config.server.host, config.server.port)) as listener:
            logger.info("Listening on %s (loading %s)", url(listener), config.engine)
            tokenizer = _load_tokenizer(config, manifest)
            client = EngineClient(config.endpoint)
            http = HttpServer(create_app(client, tokenizer, manifest, config.server), listener)
            # What is there now stays; looking through it for garbage would stop all streams for tens of milliseconds.
            gc.freeze()
            return await _Front(config, client, http, url(listener)).run(engine_process)
    except LlmserveError as e:
        logger.error("%s", e)
        return 1


def _load_tokenizer(config: FrontConfig, manifest: Manifest) -> Tokenizer | None:
    """None where the checkpoint had none. Raises LlmserveError in one sentence."""
    template = config.server.chat_template
    if manifest.tokenizer_sha256 is None:
        if template is not None:
            raise ConfigError(f"--chat-template {template} is of no use: {config.engine} has no tokenizer.")
        return None
    tokenizer = Tokenizer.load(config.engine, template, listed=manifest.files)
    logger.info("Chat prompts: %s", tokenizer.chat.told)
    return tokenizer


class _Front:
    """The life of a front: who ends it, and in which order."""

    def __init__(self, config: FrontConfig, client: EngineClient, http: HttpServer, url: str) -> None:
        self._config = config
        self._client = client
        self._http = http
        self._url = url
        self._stop_wanted = asyncio.Event()
        self._abort_wanted = asyncio.Event()

    async def run(self, engine_process: EngineProcess | None) -> int:
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._signals():
                async with self._client:
                    engine = self._await_engine() if engine_process is None else self._run_engine(engine_process)
                    tasks = [asyncio.create_task(engine), asyncio.create_task(self._announce_ready())]
                    await self._serve()
                    if self._client.ready is not None and isinstance(self._client.state, Stopped):
                        await asyncio.wait(tasks, timeout=GRACE_S)  # it said its last word; let it end by itself
        finally:
            # Only now that the connection is closed, which an engine takes as a reason to end, too.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return 0 if isinstance(self._client.state, Stopped) else 1

    async def _serve(self) -> None:
        self._http.start()
        await _first_of(self._client.ended, self._stop_wanted)
        if self._stop_wanted.is_set():
            await self._drain()
        if isinstance(self._client.state, Failed):
            logger.error("%s", self._client.state.error)
        await self._http.stop()

    async def _drain(self) -> None:
        """The engine finishes what runs, within the time it has; the port answers 503 to everything new."""
        if isinstance(self._client.state, Loading):
            self._client.stop_waiting()
            return
        timeout = self._config.server.shutdown_timeout
        logger.info("Shutting down: running requests have %g seconds to finish", timeout)
        self._client.drain(timeout)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_first_of(self._client.ended, self._abort_wanted), timeout + GRACE_S)
        if self._abort_wanted.is_set():
            self._client.drain(0)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._client.ended.wait(), GRACE_S)
            self._client.engine_died("The server was told to stop at once, and its engine did not.")
        else:
            self._client.engine_died(f"The engine did not stop within {timeout + GRACE_S:g} seconds.")

    async def _announce_ready(self) -> None:
        with contextlib.suppress(NotReadyError):
            ready = await self._client.wait_ready()
            logger.info(
                "Ready: %s takes requests of up to %d tokens, %d at once (KV cache: %d tokens, %s, %d rank(s))",
                self._url, ready.max_model_len, ready.max_num_seqs, ready.kv_cache_tokens, ready.device, ready.tp_size,
            )  # fmt: skip

    async def _await_engine(self) -> None:
        """For an engine that somebody else has started."""
        timeout = self._config.connect_timeout
        try:
            await asyncio.wait_for(self._client.connected.wait(), timeout)
        except asyncio.TimeoutError:
            self._client.engine_died(f"No engine connected to {self._config.endpoint} within {timeout:g} seconds.")

    async def _run_engine(self, engine_process: EngineProcess) -> None:
        try:
            code = await engine_process()
        except LlmserveError as e:
            self._client.engine_died(f"The engine could not be started: {e}")
            return
        except Exception:
            logger.exception("Starting the engine failed")
            self._client.engine_died("The engine could not be started; the log says why.")
            return
        if code < 0 or code > 128:  # nothing that died so could log it itself
            logger.error("the engine was ended by %s", _signal_told(code))
        if not self._client.ended.is_set():
            await self._client.settle()
            self._client.engine_died(f"The engine ended with exit code {code}; its log says why.")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGTERM or SIGINT lets running requests finish, the second breaks them off."""
        loop = asyncio.get_running_loop()

        def received() -> None:
            (self._abort_wanted if self._stop_wanted.is_set() else self._stop_wanted).set()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, received)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def main() -> int:
    setup_logging()
    try:
        config = FrontConfig.model_validate_json(sys.argv[1])
    except (IndexError, ValidationError) as e:
        problem = first_problem(e) if isinstance(e, ValidationError) else "there is no argument"
        logger.error("The front takes its configuration as one JSON argument: %s", problem)
        return 1
    return uvloop.run(serve(config))


if __name__ == "__main__":
    sys.exit(main())


def _signal_told(code: int) -> str:
    """The signal that an exit code stands for, as the system (-n) or a shell (128 + n) writes it; its usual cause."""
    causes = {
        signal.SIGBUS: "a file of the engine was changed while it was served",
        signal.SIGKILL: "by hand, or by the system for want of memory",
    }
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return name.name + (f" ({causes[name]})" if name in causes else "")
