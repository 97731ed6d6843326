"""`llmserve generate` and `llmserve chat`: an engine and a terminal, with no server between them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llmserve.config import EngineConfig, Manifest
from llmserve.engine.endpoint import private_endpoint
from llmserve.engine.group import EngineGroup
from llmserve.errors import EngineDirError, LlmserveError, RequestError
from llmserve.logs import setup_logging
from llmserve.request import SamplingParams
from llmserve.server.engine_client import EngineClient
from llmserve.server.generation import Generation, Job
from llmserve.tokenizer import Conversation, Tokenizer


class Session:
    """A running engine and its tokenizer."""

    def __init__(self, client: EngineClient, tokenizer: Tokenizer, manifest: Manifest, max_model_len: int) -> None:
        self.tokenizer = tokenizer
        self._client = client
        self._manifest = manifest
        self._max_model_len = max_model_len

    async def stream(
        self,
        prompt: list[int],
        *,
        max_tokens: int | None,
        temperature: float,
        seed: int,
        continues_text: bool,
        stop_ids: frozenset[int] = frozenset(),
    ) -> AsyncIterator[str]:
        """The answer's text as it comes; `stop_ids` end it besides the model's end-of-text tokens."""
        left = self._max_model_len - len(prompt)
        if left < 1:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and the model takes {self._max_model_len}; shorten it."
            )
        given = self._manifest.generation
        limit = left if max_tokens is None else min(max_tokens, left)
        eos = frozenset(given.eos_token_ids) | stop_ids
        job = Job(
            prompts=[tuple(prompt)],
            sampling=SamplingParams(
                max_tokens=limit,
                temperature=temperature,
                top_p=given.top_p or 1.0,
                top_k=given.top_k or 0,
                min_p=given.min_p or 0.0,
                repetition_penalty=given.repetition_penalty or 1.0,
                stop_token_ids=eos,
            ),
            max_tokens=[limit],
            eos_token_ids=eos,
            seed=seed,
            continues_text=continues_text,
        )
        generation = Generation(self._client, self.tokenizer, job)
        try:
            async for delta in generation.deltas():
                yield delta.text
        finally:
            generation.close()


@asynccontextmanager
async def open_session(engine: Path, config: EngineConfig) -> AsyncIterator[Session]:
    manifest = Manifest.read(engine)
    if manifest.tokenizer_sha256 is None:
        raise EngineDirError(f"{engine} has no tokenizer, so it has no text; serve it and send token ids.")
    with private_endpoint() as endpoint:
        async with EngineClient(endpoint) as client, EngineGroup(engine, config, endpoint, "WARNING") as group:
            if sys.stderr.isatty():
                print(f"loading {engine} …", file=sys.stderr)
            watch = asyncio.create_task(_report_end(group, client))
            ready = await client.wait_ready()
            try:
                tokenizer = Tokenizer.load(engine, listed=manifest.files)
                yield Session(client, tokenizer, manifest, ready.max_model_len)
            finally:
                client.drain(0)
                await client.ended.wait()
                watch.cancel()


async def _report_end(group: EngineGroup, client: EngineClient) -> None:
    code = await group.wait()
    client.engine_died(f"the engine ended with exit code {code}; its messages are above.")


def generate_text(
    engine: Path, config: EngineConfig, prompt: str, *, max_tokens: int, temperature: float, seed: int
) -> int:
    async def work() -> None:
        async with open_session(engine, config) as session:
            ids = session.tokenizer.encode(prompt, add_special_tokens=True)
            await _print_stream(
                session.stream(ids, max_tokens=max_tokens, temperature=temperature, seed=seed, continues_text=True)
            )

    return _run(work)


def chat_in_terminal(
    engine: Path, config: EngineConfig, system: str | None, *, max_tokens: int | None, temperature: float, seed: int
) -> int:
    async def work() -> None:
        async with open_session(engine, config) as session:
            chat = session.tokenizer.chat
            if sys.stdin and sys.stdin.isatty():
                print(f"Prompts are {chat.told}. Ctrl-D leaves.", file=sys.stderr)
            messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
            while (line := _read_line()) is not None:
                if not line.strip():
                    continue
                messages.append({"role": "user", "content": line})
                try:
                    ids = session.tokenizer.encode_parts(chat.parts(Conversation(messages)))
                    answer = await _print_stream(
                        session.stream(
                            ids,
                            max_tokens=max_tokens,
                            temperature=temperature,
                            seed=seed,
                            continues_text=False,
                            stop_ids=chat.stop_ids,
                        )
                    )
                    messages.append({"role": "assistant", "content": answer})
                except RequestError as e:
                    messages.pop()
                    print(f"{e}", file=sys.stderr)

    return _run(work)


def _read_line() -> str | None:
    """The next line the user types; None when they leave (Ctrl-D, Ctrl-C).

    Nothing else happens meanwhile, so the event loop may well stand still; its own answer to Ctrl-C would wait for it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input("> " if sys.stdin and sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    except RuntimeError:  # there is no stdin
        return None
    finally:
        signal.signal(signal.SIGINT, before)


async def _print_stream(pieces: AsyncIterator[str]) -> str:
    text = ""
    async for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """To the end, or to Ctrl-C; the engine is stopped in both cases."""
    setup_logging("WARNING")
    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        print()
        return 130
    except LlmserveError as e:
        print(f"llmserve: {e}", file=sys.stderr)
        return 1
    return 0
