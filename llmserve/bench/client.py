"""One request to an OpenAI-compatible server: sent, streamed to its end, timed. Knows HTTP and nothing of the load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from llmserve.bench.load import Asked
from llmserve.bench.sample import Sample
from llmserve.bench.sse import EventParser
from llmserve.errors import LlmserveError

MAX_MESSAGE = 300
"""Characters of a server's own words that are shown."""


class AnswerError(Exception):
    """The server did not answer this request as it should; the text is one sentence."""


@dataclass(frozen=True)
class Client:
    """`clock` gives the seconds since the benchmark began; `extra` goes into every request's body; `on_tokens` hears
    how many tokens came whenever some do."""

    http: httpx.AsyncClient
    model: str
    extra: dict[str, Any]
    clock: Callable[[], float]
    on_tokens: Callable[[int], None] = lambda count: None

    async def complete(self, asked: Asked) -> Sample:
        """Never raises for a request that fails: `error` then says why."""
        sample = Sample(due=asked.due, sent=self.clock())
        try:
            await self._stream(self._body(asked), sample)
        except AnswerError as e:
            sample.error = str(e)
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            sample.error = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        sample.ended = self.clock()
        return sample

    def _body(self, asked: Asked) -> dict[str, Any]:
        body = {
            "model": self.model,
            "prompt": list(asked.prompt),
            "max_tokens": asked.output_len,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        return {key: value for key, value in body.items() if value is not None}

    async def _stream(self, body: dict[str, Any], sample: Sample) -> None:
        # Compressed events would come late and together.
        headers = {"Accept-Encoding": "identity"}
        async with self.http.stream("POST", "/v1/completions", json=body, headers=headers) as response:
            if response.status_code != 200:
                raise AnswerError(f"HTTP {response.status_code}: {_message(await response.aread())}")
            answer, parser = _Answer(sample), EventParser()
            async for chunk in response.aiter_bytes():
                now = self.clock()
                before = len(sample.token_times)
                for event in parser.feed(chunk):
                    answer.take(event, now)
                self.on_tokens(len(sample.token_times) - before)
        answer.finish()


@dataclass
class _Answer:
    """Adds up the events of one stream."""

    sample: Sample
    complete: bool = False
    usage: dict[str, Any] = field(default_factory=dict)

    def take(self, event: str, now: float) -> None:
        if event == "[DONE]":
            self.complete = True
            return
        data = _json_object(event)
        if error := data.get("error"):
            raise AnswerError(f"the stream ended in an error: {_error_text(error)}")
        self.usage = data.get("usage") or self.usage
        try:
            choices = data.get("choices") or ()
            self.sample.token_times += [now] * sum(map(_tokens_in, choices))
            self.sample.timed_out |= any(choice.get("finish_reason") == "timeout" for choice in choices)
        except (AttributeError, TypeError):
            raise AnswerError(f"the server sent {event[:MAX_MESSAGE]!r} where a completion belongs.") from None

    def finish(self) -> None:
        if not self.complete:
            raise AnswerError("the stream ended before its [DONE].")
        try:
            self.sample.input_tokens = int(self.usage["prompt_tokens"])
            self.sample.output_tokens = int(self.usage["completion_tokens"])
            details = self.usage.get("prompt_tokens_details") or {}
            self.sample.cached_tokens = int(details.get("cached_tokens") or 0)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise AnswerError("the stream has no usage, so its tokens cannot be counted.") from None


def _tokens_in(choice: dict[str, Any]) -> int:
    """How many tokens a chunk brought. Without their ids: one, unless it is there only to say that the end came."""
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return len(ids)
    return 1 if choice.get("text") or choice.get("finish_reason") is None else 0


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
        raise AnswerError(f"the server sent {shown[:MAX_MESSAGE]!r} where a JSON object belongs.")
    return data


def _message(body: bytes) -> str:
    """What an answer that is no success says, in OpenAI's shape or any other."""
    try:
        return _error_text(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return " ".join(body.decode("utf-8", "replace").split())[:MAX_MESSAGE] or "without a message."


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message).split())[:MAX_MESSAGE]


async def first_model(http: httpx.AsyncClient) -> str:
    """The name of the first model the server lists."""
    address = f"{http.base_url}".rstrip("/")
    try:
        response = await http.get("/v1/models")
        if response.status_code != 200:
            raise AnswerError(f"HTTP {response.status_code}: {_message(response.content)}")
        return str(_json_object(response.content)["data"][0]["id"])
    except httpx.HTTPError as e:
        reason = f"{type(e).__name__}: {e}".rstrip(": ")
        raise LlmserveError(
            f"{address} does not answer ({reason}); start a server there, or give another URL."
        ) from None
    except (AnswerError, KeyError, IndexError, TypeError) as e:
        reason = str(e) if isinstance(e, AnswerError) else "the list has no model"
        raise LlmserveError(f"{address}/v1/models does not say what is served ({reason}); give --model.") from None
