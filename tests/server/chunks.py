"""Reading streams, and putting them together again."""

from __future__ import annotations

import json
from typing import Any

from .conftest import Front


def stream(front: Front, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends as it should."""
    with front.http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def put_together(chunks: list[dict[str, Any]], choices: int) -> list[dict[str, Any]]:
    """The choices of a completion, from the chunks of its stream."""
    whole: list[dict[str, Any]] = [{"index": i, "text": "", "logprobs": None} for i in range(choices)]
    for part in (part for chunk in chunks for part in chunk["choices"]):
        choice = whole[part["index"]]
        assert "finish_reason" not in choice, "nothing comes after the end"
        choice["text"] += part["text"]
        _add_common(choice, part)
        if "prompt_token_ids" in part:
            assert "prompt_token_ids" not in choice, "once is enough"
            choice["prompt_token_ids"] = part["prompt_token_ids"]
    return whole


def put_chat_together(chunks: list[dict[str, Any]], choices: int) -> list[dict[str, Any]]:
    """The choices of a chat answer, from the chunks of its stream."""
    whole: list[dict[str, Any]] = [{"index": i, "logprobs": None} for i in range(choices)]
    for part in (part for chunk in chunks for part in chunk["choices"]):
        choice, delta = whole[part["index"]], part["delta"]
        assert "finish_reason" not in choice, "nothing comes after the end"
        if "message" not in choice:
            assert delta == {"role": "assistant", "content": ""}, "the role comes first"
            choice["message"] = {**delta, "refusal": None}
        else:
            assert "role" not in delta
            choice["message"]["content"] += delta.get("content", "")
        _add_common(choice, part)
    return whole


def _add_common(choice: dict[str, Any], part: dict[str, Any]) -> None:
    if "token_ids" in part:
        choice["token_ids"] = choice.get("token_ids", []) + part["token_ids"]
    for key, values in (part["logprobs"] or {}).items():
        choice["logprobs"] = choice["logprobs"] or {}
        choice["logprobs"][key] = None if values is None else choice["logprobs"].get(key, []) + values
    if part["finish_reason"]:
        choice |= {"finish_reason": part["finish_reason"], "stop_reason": part["stop_reason"]}
