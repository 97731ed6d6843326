"""A real front on a loopback port with a fake engine behind it, and the clients that people use in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
import tokenizers
import uvloop
from tokenizers import decoders, models, pre_tokenizers

from llmserve.config import GenerationDefaults, Manifest, ModelConfig, Rope, ServerConfig
from llmserve.request import Request
from llmserve.server.app import create_app
from llmserve.server.engine_client import EngineClient
from llmserve.server.listen import HttpServer, listen, url
from llmserve.tokenizer import Tokenizer
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.pieces import byte_alphabet
from llmserve.tokenizer.prompts.template import TemplatePrompt

from .fake_engine import READY, FakeEngine, wait_for

TEXT = "Hello 明月🌟 world. 👩‍🚀 ### The End\n"
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if messages[0].content == 'refuse me' %}{{ raise_exception('No.') }}{% endif %}"
    "{% if add_generation_prompt %}<|start|>{{ voice | default('assistant') }}:{% endif %}"
)


def make_backend() -> tokenizers.Tokenizer:
    """Byte-level with few merges: one character of TEXT is up to four tokens."""
    merges = [("e", "l"), ("el", "l"), ("Ġ", "w"), ("æ", "ĺ"), ("ð", "Ł"), ("#", "#"), ("Ġ", "##")]
    names = [*byte_alphabet(), *("".join(pair) for pair in merges)]
    backend = tokenizers.Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|start|>"])
    return backend


def make_tokenizer() -> Tokenizer:
    prompt = TemplatePrompt({"default": ChatTemplate(TEMPLATE, {"eos_token": "<|end|>"})}, "a template")
    return Tokenizer(LibraryBackend(make_backend()), prompt)


TOKENIZER = make_tokenizer()
VOCAB = TOKENIZER.vocab_size
END = TOKENIZER.encode("<|end|>", add_special_tokens=False)[0]
TOKENS = TOKENIZER.encode(TEXT, add_special_tokens=False)


def manifest(**changes: Any) -> Manifest:
    model = ModelConfig(
        family="llama", vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1,
        head_dim=8, max_position=200, norm_eps=1e-5, rope=Rope(theta=10000.0, dim=8), tie_embeddings=True,
        sliding_windows=(None,),
    )  # fmt: skip
    values: dict[str, Any] = {
        "llmserve_version": "0", "device": "cpu", "model_name": "tiny", "model": model, "quant": "none",
        "head_quant": "none",
        "group_size": None, "tp_size": 1, "dtype": "float32", "generation": GenerationDefaults(eos_token_ids=(END,)),
        "tokenizer_sha256": "0", "source_fingerprint": "0", "files": {},
    }  # fmt: skip
    return Manifest(**(values | changes))


def text_by_seed(request: Request) -> list[int]:
    """TEXT from somewhere on; where depends on the seed."""
    start = request.sampling.seed % len(TEXT)
    return TOKENIZER.encode(TEXT[start:] + TEXT[:start], add_special_tokens=False)


@dataclass
class Front:
    """A running front, its engine and its clients."""

    client: EngineClient
    url: str
    engine: FakeEngine
    loop: asyncio.AbstractEventLoop
    openai: openai.OpenAI = field(init=False)
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        content = json.dumps(body)  # as ASCII, so that what is not Unicode can be sent, too
        return self.http.post(path, content=content, headers={"content-type": "application/json"})

    def complete(self, **body: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", **{"prompt": "hi", "seed": 0} | body)
        assert response.status_code == 200, response.text
        return response.json()

    @contextlib.contextmanager
    def asking(self, path: str, **body: Any) -> Iterator[None]:
        """A client that leaves at the end of the block, where the test knows that it was heard: one whose time is up
        may leave before it was."""
        url, content = httpx.URL(self.url), json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        with socket.create_connection((url.host, url.port or 80)) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + content)
            yield

    def refused(self, path: str = "/v1/completions", **body: Any) -> dict[str, Any]:
        """The error of a 400, whose shape is always the same."""
        base = {"prompt": "hi"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "hi"}]}
        response = self.post(path, **{**base, **body})
        assert response.status_code == 400, (response.status_code, response.text)
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"].endswith((".", "…"))
        return error


@contextlib.contextmanager
def running_front(
    endpoint: str,
    *,
    tokenizer: Tokenizer | None = TOKENIZER,
    ready: bool = True,
    manifest: Manifest = manifest(),  # noqa: B008 (frozen)
    config: ServerConfig = ServerConfig(),  # noqa: B008 (frozen)
    script: Callable[[Request], list[int]] = text_by_seed,
    max_model_len: int = READY.max_model_len,
) -> Iterator[Front]:
    started: list[Front] = []
    stop = asyncio.Event()

    async def live() -> None:
        listener = listen("127.0.0.1", 0)
        async with EngineClient(endpoint) as client:
            server = HttpServer(create_app(client, tokenizer, manifest, config), listener)
            server.start()
            engine = FakeEngine(endpoint, script)
            if ready:
                engine.say(msgspec.structs.replace(READY, max_model_len=max_model_len))
                await client.wait_ready()
            started.append(Front(client, url(listener), engine, asyncio.get_running_loop()))
            await stop.wait()
            engine.disconnect()
            await server.stop()

    thread = threading.Thread(target=uvloop.run, args=(live(),), daemon=True)
    thread.start()
    [front] = wait_for(lambda: started)
    try:
        yield front
    finally:
        front.http.close()
        front.openai.close()
        front.loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/front.sock"


@pytest.fixture(scope="module")
def shared_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_front(f"ipc://{tmp_path_factory.mktemp('front')}/front.sock") as front:
        yield front


@pytest.fixture
def front(shared_front: Front) -> Front:
    """One front for a module's tests; each finds its engine as new."""
    wait_for(lambda: not shared_front.engine.running)
    shared_front.engine.script = text_by_seed
    shared_front.engine.allowance = None
    shared_front.engine.steps_a_message = 1
    shared_front.engine.received.clear()
    return shared_front
