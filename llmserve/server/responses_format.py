"""What /v1/responses answers with: a response with its items, whole or as OpenAI's events in their order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmserve.request import Finish
from llmserve.server.answers.parts import Content
from llmserve.server.asked import Reading
from llmserve.server.errors import ErrorAnswer
from llmserve.server.generation import Delta, Token, Usage
from llmserve.server.logprob_format import entries
from llmserve.server.protocol.responses import FUNCTION, ResponsesBody
from llmserve.server.protocol.tools import NamedTool
from llmserve.server.respond import Whole
from llmserve.server.response_items import Event, Items, new_id
from llmserve.tokenizer import Tokenizer

INCOMPLETE = {Finish.LENGTH: "max_output_tokens", Finish.TIMEOUT: "timeout"}
"""OpenAI's reason, and one of ours."""


@dataclass(kw_only=True)
class ResponsesFormat:
    """One response. Nothing is kept of it."""

    model: str
    body_sent: ResponsesBody
    temperature: float
    top_p: float
    reading: Reading
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        self._id = new_id("resp")
        self._created = int(time.time())
        self._items = Items(self.reading.new_call_id)
        self._reader = self.reading.reader()
        self._finish: Finish | None = None
        self._offsets: list[int] = []  # of the tokens in the text
        self._tokens: deque[Token] = deque()  # those of which it is not known yet whether they are content
        self._sequence = 0

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]:
        """The response of the one choice."""
        [choice] = choices
        whole = Delta(0, text=choice.text, tokens=choice.tokens)
        for delta in (whole, Delta(0, finish=choice.finish)):
            for _ in self._taken(delta):
                pass
        return self._ended(usage)

    def opening(self) -> Iterator[Event]:
        response = self._response("in_progress")
        yield from self._numbered(
            {"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")
        )

    def events(self, delta: Delta) -> Iterator[Event]:
        yield from self._numbered(self._taken(delta))

    def ending(self, usage: Usage) -> Iterator[Event]:
        response = self._ended(usage)
        yield from self._numbered([{"type": f"response.{response['status']}", "response": response}])

    def failure(self, error: ErrorAnswer) -> Iterator[Event]:
        """What was begun is told of first, so that the items are those that the events made."""
        yield from self._numbered(self._items.close("incomplete"))
        told = {"code": error.code or error.type, "message": error.body()["error"]["message"]}
        response = self._response("failed", error=told, output=self._items.output)
        yield from self._numbered([{"type": "response.failed", "response": response}])

    def _taken(self, delta: Delta) -> Iterator[Event]:
        self._offsets += [token.offset for token in delta.tokens]
        if self.body_sent.wants_logprobs:
            self._tokens += delta.tokens
        for part in self._reader.feed(delta.text) if delta.finish is None else self._reader.end():
            yield from self._items.add(part, self._logprobs(part) if isinstance(part, Content) else ())
        if delta.finish is not None:
            self._finish = delta.finish
            yield from self._items.close("incomplete" if delta.finish in INCOMPLETE else "completed")

    def _logprobs(self, part: Content) -> list[dict[str, Any]]:
        """Of the tokens that begin in it."""
        tokens = []
        while self._tokens and self._tokens[0].offset < part.at + len(part.text):
            token = self._tokens.popleft()
            if token.offset >= part.at:
                tokens.append(token)
        return entries(self.tokenizer, tokens)

    def _numbered(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            yield {**event, "sequence_number": self._sequence}
            self._sequence += 1

    def _ended(self, usage: Usage) -> dict[str, Any]:
        reason = INCOMPLETE.get(self._finish) if self._finish else None
        return self._response(
            "completed" if reason is None else "incomplete",
            output=self._items.output,
            incomplete_details=None if reason is None else {"reason": reason},
            completed_at=int(time.time()) if reason is None else None,
            usage=self._usage(usage),
        )

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        sent = self.body_sent
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": sent.instructions,
            "max_output_tokens": sent.max_output_tokens,
            "metadata": sent.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": sent.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": sent.reasoning and sent.reasoning.effort, "summary": None},
            "store": False,
            "temperature": self.temperature,
            "text": {"format": {"type": "text"}, **(sent.text or {})},
            "tool_choice": _tool_choice(sent),
            "tools": [_flat(tool["function"]) for tool in sent.tools or ()],
            "top_logprobs": sent.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": sent.user,
            **more,
        }

    def _usage(self, usage: Usage) -> dict[str, Any]:
        reasoning = sum(offset < self._reader.reasoning_chars for offset in self._offsets)
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


def _tool_choice(body: ResponsesBody) -> Any:
    match body.tool_choice:
        case NamedTool(name):
            return {"type": "function", "name": name}
        case choice:
            return choice or "auto"


def _flat(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", **{name: function.get(name) for name in FUNCTION}}
