"""The items of a response, and the events that tell of them: what an answer's parts become on the responses endpoint.

One item is open at a time. An item is reasoning, a message or a function call; a part that is of another kind than the
open item ends it and begins one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from llmserve.server.answers.parts import AnswerPart, CallArguments, CallBegin, Content, Reasoning

Event = dict[str, Any]

TEXTS: dict[str, tuple[str, str, Event, Event]] = {
    "message": ("output_text", "response.output_text", {"annotations": [], "logprobs": []}, {"logprobs": []}),
    "reasoning": ("reasoning_text", "response.reasoning_text", {}, {}),
}
"""Kind of item with a text → its part's type, its events' name, and what else the part and the events have."""


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


class Items:
    """The items of one response so far. Events come without their sequence numbers."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the last of them
        self._text = ""  # its text, or its arguments

    @property
    def output(self) -> list[dict[str, Any]]:
        return self._items

    def add(self, part: AnswerPart) -> Iterator[Event]:
        match part:
            case Content(text):
                yield from self._add_text("message", text)
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
            kind, event, more, with_event = TEXTS[item["type"]]
            part = {"type": kind, "text": self._text, **more}
            item["content"] = [part]
            yield self._of_item(f"{event}.done", content_index=0, text=self._text, **with_event)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        item["status"] = status
        yield self._told("response.output_item.done", item)
        self._open = None

    def _add_text(self, kind: str, text: str) -> Iterator[Event]:
        part_kind, event, more, with_event = TEXTS[kind]
        if self._open is None or self._open["type"] != kind:
            yield from self.close("completed")
            if kind == "message":
                yield from self._begin({"type": kind, "id": new_id("msg"), "role": "assistant", "content": []})
            else:
                yield from self._begin({"type": kind, "id": new_id("rs"), "summary": [], "content": []})
            part = {"type": part_kind, "text": "", **more}
            yield self._of_item("response.content_part.added", content_index=0, part=part)
        self._text += text
        yield self._of_item(f"{event}.delta", content_index=0, delta=text, **with_event)

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        item["status"] = "in_progress"
        self._open, self._text = item, ""
        self._items.append(item)
        yield self._told("response.output_item.added", item)

    def _told(self, kind: str, item: dict[str, Any]) -> Event:
        return {"type": kind, "output_index": len(self._items) - 1, "item": dict(item)}

    def _of_item(self, kind: str, **more: Any) -> Event:
        assert self._open is not None
        return {"type": kind, "item_id": self._open["id"], "output_index": len(self._items) - 1, **more}
