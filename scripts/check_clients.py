"""Libraries that people put in front of an OpenAI-compatible server: `python scripts/check_clients.py ENGINE`.

Serves the engine and asks the same question through litellm, langchain-openai and llama-index-llms-openai-like: whole,
as a stream, and how many tokens it took. All have to be what OpenAI's own client gets. A library that is not installed
is left out, and said so. Exit code 1 where one got something else.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI
from serving_bench.server import serving

KEY = "none"
MAX_TOKENS = 40
QUESTION = "What is in-flight batching?"


@dataclass(frozen=True)
class Got:
    whole: str
    stream: str
    usage: tuple[int, int]  # tokens of the prompt, of the answer


Client = Callable[[str, str], Got]
"""The server's /v1 address, the model's name → what the library gets."""


def with_openai(base: str, model: str) -> Got:
    client = OpenAI(base_url=base, api_key=KEY)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    whole = client.chat.completions.create(**body)
    stream = client.chat.completions.create(**body, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    return Got(whole.choices[0].message.content, text, (whole.usage.prompt_tokens, whole.usage.completion_tokens))


def with_litellm(base: str, model: str) -> Got:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it fetches prices when it is imported
    import litellm

    body = {
        "model": f"openai/{model}",
        "api_base": base,
        "api_key": KEY,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    whole = litellm.completion(**body)
    chunks = list(litellm.completion(**body, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return Got(whole.choices[0].message.content, text, (whole.usage.prompt_tokens, whole.usage.completion_tokens))


def with_langchain(base: str, model: str) -> Got:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model=model, base_url=base, api_key=KEY, temperature=0, max_tokens=MAX_TOKENS, stream_usage=True)
    whole = chat.invoke(QUESTION)
    chunks = list(chat.stream(QUESTION))
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    told = whole.usage_metadata
    assert told is not None
    assert usage, "no usage in the stream"
    assert (usage[-1]["input_tokens"], usage[-1]["output_tokens"]) == (told["input_tokens"], told["output_tokens"])
    return Got(whole.text, "".join(chunk.text for chunk in chunks), (told["input_tokens"], told["output_tokens"]))


def with_llama_index(base: str, model: str) -> Got:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(model=model, api_base=base, api_key=KEY, is_chat_model=True, temperature=0, max_tokens=MAX_TOKENS)
    messages = [ChatMessage(role="user", content=QUESTION)]
    whole = llm.chat(messages)
    text = "".join(part.delta or "" for part in llm.stream_chat(messages))
    usage = whole.raw.usage
    return Got(whole.message.content or "", text, (usage.prompt_tokens, usage.completion_tokens))


CLIENTS: dict[str, tuple[str, Client]] = {
    "litellm": ("litellm", with_litellm),
    "langchain-openai": ("langchain_openai", with_langchain),
    "llama-index-llms-openai-like": ("llama_index", with_llama_index),
}
"""Name on PyPI → module, and how it is used."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    engine = parser.parse_args().engine
    wrong = 0
    with tempfile.TemporaryDirectory() as work, serving(engine, Path(work) / "log", []) as server:
        base = f"{server.base}/v1"
        expected = with_openai(base, server.model)
        print(f"openai: {expected.usage}, {expected.whole!r}")
        if expected.stream != expected.whole:
            print(f"openai: the stream is {expected.stream!r}")
            wrong += 1
        for name, (module, use) in CLIENTS.items():
            if importlib.util.find_spec(module) is None:
                print(f"{name}: left out, as it is not installed")
                continue
            got = use(base, server.model)
            print(f"{name}: {'the same, whole, streamed and counted' if got == expected else got}")
            wrong += got != expected
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
