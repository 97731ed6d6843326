"""Every family's reference ids and every trained model's reference text, over HTTP, at tp 1 and tp 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Build
from tests.e2e.server import Server, serving
from tests.shared import shared

FAMILIES = ("qwen2", "qwen2-tied", "qwen3", "llama", "llama3-rope-scaling", "mistral")


@pytest.mark.parametrize("tp", (1, 2))
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_over_http_are_the_reference(family: str, tp: int, build: Build, tmp_path: Path) -> None:
    source = shared(f"golden/{family}")
    golden = json.loads((source / "golden.json").read_text())
    engine = build(source, "--quant", "none", "--dtype", "float32", "--tp-size", str(tp))
    with serving(engine, tmp_path / "log", ranks=tp) as server:
        response = server.client.completions.create(
            model=server.model,
            prompt=golden["prompts"],
            max_tokens=golden["new_tokens"],
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
    assert [choice.token_ids for choice in response.choices] == golden["greedy"]


@pytest.mark.parametrize("name", ("stories260K-hf", "zh-poem-hf"))
def test_text_over_http_is_the_reference_streaming_and_not(name: str, build: Build, tmp_path: Path) -> None:
    source = shared(f"models/{name}")
    engine = build(source, "--quant", "none", "--dtype", "float32", "--tp-size", "2")
    with serving(engine, tmp_path / "log", ranks=2) as server:
        for prompt, expected in json.loads((source / "golden.json").read_text()).items():
            continuation = expected["text"].removeprefix(prompt)
            asked = {"prompt": prompt, "max_tokens": len(expected["greedy_ids"]), "temperature": 0}
            whole = server.client.completions.create(model=server.model, **asked).choices[0].text
            chunks = stream(server, asked)
            assert "".join(chunks) == whole == continuation
            assert len(chunks) > len(expected["greedy_ids"]) // 2, "the text came in one piece, not as a stream"
            assert not any("\ufffd" in chunk for chunk in chunks)


def stream(server: Server, asked: dict) -> list[str]:
    chunks = server.client.completions.create(model=server.model, stream=True, **asked)
    return [c.choices[0].text for c in chunks if c.choices and c.choices[0].text]
