"""The items of a response, and the events that tell of them: what an answer's parts become on the responses endpoint.

One item is open at a time. An item is reasoning, a message or a function call; a part that is of another kind than the
open item ends it and begins one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmserve.server.answers.parts import AnswerPart, CallArguments, CallBegin, Content, Reasoning

Event = dict[str, Any]

TEXTS = {"message": "output_text", "reasoning": "reasoning_text"}
"""Kind of item with a text → its part's type."""


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


class Items:
    """The items of one response so far. Events come without their sequence numbers."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the last of them
        self._text = ""  # its text, or its arguments
        self._logprobs: list[dict[str, Any]] = []  # of its text's tokens

    @property
    def output(self) -> list[dict[str, Any]]:
        return self._items

    def add(self, part: AnswerPart, logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[Event]:
        """`logprobs`: of a content's tokens."""
        match part:
            case Content(text):
                yield from self._add_text("message", text, logprobs)
            case Reasoning(text):
                yield from self._add_text("reasoning", text)
            case CallBegin(_, name):
                yield from self.close("completed")
                call = {"call_id": self._new_call_id(), "name": name, "arguments": ""}
                yield from self._begin({"type": "function_call", "id": new_id("fc"), **call})
            case CallArguments(_, text):
                self._text += text
                yield self._of_item("response.function_call_arguments.delta", delta=text)

    def close(self, status: str) -> Iterator[Event]:
        """Ends the item that is open, if one is."""
        item = self._open
        if item is None:
            return
        if item["type"] == "function_call":
            item["arguments"] = self._text
            yield self._of_item("response.function_call_arguments.done", arguments=self._text, name=item["name"])
        else:
            part = self._part(self._text, self._logprobs)
            item["content"] = [part]
            more = self._of_text(self._logprobs)
            yield self._of_item(f"response.{part['type']}.done", content_index=0, text=self._text, **more)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        item["status"] = status
        yield self._told("response.output_item.done", item)
        self._open = None

    def _add_text(self, kind: str, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[Event]:
        if self._open is None or self._open["type"] != kind:
            yield from self.close("completed")
            if kind == "message":
                yield from self._begin({"type": kind, "id": new_id("msg"), "role": "assistant", "content": []})
            else:
                yield from self._begin({"type": kind, "id": new_id("rs"), "summary": [], "content": []})
            yield self._of_item("response.content_part.added", content_index=0, part=self._part("", []))
        self._text += text
        self._logprobs += logprobs
        yield self._of_item(f"response.{TEXTS[kind]}.delta", content_index=0, delta=text, **self._of_text(logprobs))

    def _part(self, text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Of the open item."""
        assert self._open is not None
        annotations: dict[str, Any] = {"annotations": []} if self._open["type"] == "message" else {}
        return {"type": TEXTS[self._open["type"]], "text": text, **annotations, **self._of_text(logprobs)}

    def _of_text(self, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What else is told with a text of the open item: of reasoning nothing."""
        assert self._open is not None
        return {"logprobs": logprobs} if self._open["type"] == "message" else {}

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        item["status"] = "in_progress"
        self._open, self._text, self._logprobs = item, "", []
        self._items.append(item)
        yield self._told("response.output_item.added", item)

    def _told(self, kind: str, item: dict[str, Any]) -> Event:
        return {"type": kind, "output_index": len(self._items) - 1, "item": dict(item)}

    def _of_item(self, kind: str, **more: Any) -> Event:
        assert self._open is not None
        return {"type": kind, "item_id": self._open["id"], "output_index": len(self._items) - 1, **more}
