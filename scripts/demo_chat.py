"""Wait for a llmserve server, then stream a short chat through the openai client to the terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time

import httpx
from openai import OpenAI

CONVERSATIONS = (("What is llmserve?",), ("What is 8 + 5?", "and minus 4?"), ("法国的首都是哪里？",))


def wait_until_ready(base: str, server_pid: int | None, timeout: float = 300.0) -> None:
    """Poll /health; exit with a sentence where the server dies or does not get ready."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server_pid is not None and not alive(server_pid):
            sys.exit("demo: the server ended before it was ready; its messages are above.")
        try:
            if httpx.get(f"{base}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    sys.exit(f"demo: the server was not ready within {timeout:.0f} s.")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def chat(base: str) -> None:
    client = OpenAI(base_url=f"{base}/v1", api_key="none")
    model = client.models.list().data[0].id
    for questions in CONVERSATIONS:
        messages: list = []
        for question in questions:
            print(f"\n\033[1m> {question}\033[0m" if sys.stdout.isatty() else f"\n> {question}")
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": stream_answer(client, model, messages)})


def stream_answer(client: OpenAI, model: str, messages: list) -> str:
    answer = ""
    stream = client.chat.completions.create(model=model, messages=messages, stream=True, temperature=0)
    for chunk in stream:
        piece = chunk.choices[0].delta.content or ""
        answer += piece
        print(piece, end="", flush=True)
    print()
    if not answer:
        sys.exit("demo: the answer was empty.")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--server-pid", type=int)
    args = parser.parse_args()
    base = f"http://127.0.0.1:{args.port}"
    wait_until_ready(base, args.server_pid)
    chat(base)


if __name__ == "__main__":
    main()
