"""Every family's reference ids and logits and every trained model's reference text, over HTTP, at tp 1 and tp 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.e2e.conftest import Build
from tests.e2e.server import Server, serving
from tests.models.golden import FAMILIES, Golden
from tests.shared import shared

TOLERANCE = 1e-4
"""Of the logits' range; fp32 on both sides, so only the order of sums differs."""

TOP = 20


@pytest.mark.parametrize("tp", (1, 2))
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_logprobs_over_http_are_the_reference(family: str, tp: int, build: Build, tmp_path: Path) -> None:
    source = shared(f"golden/{family}")
    golden = Golden.read(source)
    engine = build(source, "--quant", "none", "--dtype", "float32", "--tp-size", str(tp))
    with serving(engine, tmp_path / "log", "--max-num-batched-tokens", "16", ranks=tp) as server:
        response = server.client.completions.create(
            model=server.model,
            prompt=golden.prompts,
            max_tokens=len(golden.greedy[0]),
            temperature=0,
            logprobs=TOP,
            extra_body={"ignore_eos": True, "return_token_ids": True, "prompt_logprobs": TOP},
        )
    assert [choice.token_ids for choice in response.choices] == golden.greedy
    for choice, prompt, rows in zip(response.choices, golden.prompts, golden.logits, strict=True):
        allowed = TOLERANCE * float(rows.max() - rows.min())
        logs = rows.log_softmax(1)
        assert choice.prompt_logprobs[0] is None
        for token, told, row in zip(prompt[1:], choice.prompt_logprobs[1:], logs[: len(prompt) - 1], strict=True):
            check_top({int(id): entry["logprob"] for id, entry in told.items()}, row, allowed)
            check_rank(told[str(token)], row, allowed)
        steps = logs[len(prompt) - 1 : -1]  # the last token's own logits are of one more
        for text, own, told, row in zip(
            choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, steps, strict=True
        ):
            assert own == told[text] == max(told.values())
            check_top({int(text.removeprefix("token_id:")): logprob for text, logprob in told.items()}, row, allowed)


def check_top(told: dict[int, float], row: Tensor, allowed: float) -> None:
    """`row`: [vocabulary], the reference's log-probabilities. No token that was left out is likelier."""
    assert TOP <= len(told) <= TOP + 1
    for token, logprob in told.items():
        assert abs(logprob - float(row[token])) < allowed
    likeliest = sorted(told.values(), reverse=True)[:TOP]
    for ours, theirs in zip(likeliest, row.topk(TOP).values.tolist(), strict=True):
        assert abs(ours - theirs) < allowed


def check_rank(entry: dict[str, Any], row: Tensor, allowed: float) -> None:
    """Tokens that are nearly as likely may change places."""
    surely = int((row > entry["logprob"] + allowed).sum())
    at_most = int((row > entry["logprob"] - allowed).sum())
    assert surely < entry["rank"] <= at_most


@pytest.mark.parametrize("name", ("stories260K-hf", "zh-poem-hf"))
def test_text_over_http_is_the_reference_streaming_and_not(name: str, build: Build, tmp_path: Path) -> None:
    source = shared(f"models/{name}")
    engine = build(source, "--quant", "none", "--dtype", "float32", "--tp-size", "2")
    prompts = json.loads((source / "golden.json").read_text())
    with serving(engine, tmp_path / "log", ranks=2) as server:
        for prompt, expected in prompts.items():
            continuation = expected["text"].removeprefix(prompt)
            asked = {"prompt": prompt, "max_tokens": len(expected["greedy_ids"]), "temperature": 0}
            whole = server.client.completions.create(model=server.model, **asked).choices[0].text
            # How many pieces it comes in is the machine's choice, as tokens that a busy front has not sent yet leave
            # together. That one with time sends a chunk for each is proved in tests/server/test_streams.py, and that a
            # text begins before it ends in test_faults.py.
            chunks = stream(server, asked)
            assert "".join(chunks) == whole == continuation
            assert not any("\ufffd" in chunk for chunk in chunks)


def stream(server: Server, asked: dict) -> list[str]:
    chunks = server.client.completions.create(model=server.model, stream=True, **asked)
    return [c.choices[0].text for c in chunks if c.choices and c.choices[0].text]
