"""What OpenAI's two endpoints answer with: chunks and whole bodies out of deltas, as vLLM extends them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar

from llmserve.request import TokenLogprobs
from llmserve.server.generation import Delta, Token, Usage
from llmserve.server.respond import Whole
from llmserve.tokenizer import Tokenizer


@dataclass(kw_only=True)
class _Format:
    """What chat and completions have in common."""

    KIND: ClassVar[str]
    CHUNK_KIND: ClassVar[str]
    ID_PREFIX: ClassVar[str]

    model: str
    tokenizer: Tokenizer | None
    prompts: list[tuple[int, ...]]
    n: int
    include_usage: bool
    return_token_ids: bool
    logprobs: bool

    def __post_init__(self) -> None:
        self._id = f"{self.ID_PREFIX}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._chunk_head = self._head(self.CHUNK_KIND)
        self._chunk_tail = {"usage": None} if self.include_usage else {}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return {**self._chunk_head, "choices": [], "usage": usage_body(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._chunk_head, "choices": [choice], **self._chunk_tail}

    def _body(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {**self._head(self.KIND), "choices": choices, "usage": usage_body(usage)}

    def _token_text(self, token: int) -> str:
        return self.tokenizer.token_text(token) if self.tokenizer else f"token_id:{token}"

    def _token_ids(self, tokens: list[Token]) -> dict[str, Any]:
        return {"token_ids": [token.id for token in tokens]} if self.return_token_ids else {}


class ChatFormat(_Format):
    """`chat.completion` and `chat.completion.chunk`."""

    KIND = "chat.completion"
    CHUNK_KIND = "chat.completion.chunk"
    ID_PREFIX = "chatcmpl"

    def opening(self, choices: int) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        chunks = [
            self._chunk({"index": i, "delta": role, "logprobs": None, "finish_reason": None}) for i in range(choices)
        ]
        chunks[0] |= self._prompt_token_ids()
        return chunks

    def chunk(self, delta: Delta) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": delta.index, "delta": {}, "logprobs": None, "finish_reason": None}
        if delta.finish is not None:
            choice |= {"finish_reason": delta.finish.value, "stop_reason": delta.stop_reason}
        else:
            choice |= {"delta": {"content": delta.text}, "logprobs": self._logprobs(delta.tokens)}
            choice |= self._token_ids(delta.tokens)
        return self._chunk(choice)

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]:
        return self._body([self._choice(choice) for choice in choices], usage) | self._prompt_token_ids()

    def _choice(self, choice: Whole) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish and choice.finish.value,
            "stop_reason": choice.stop_reason,
            **self._token_ids(choice.tokens),
        }

    def _prompt_token_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompts[0]} if self.return_token_ids else {}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [self._token(token.id, token.logprobs) for token in tokens if token.logprobs is not None]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprobs: TokenLogprobs) -> dict[str, Any]:
        top = [self._entry(id, logprob) for id, logprob in logprobs.top]
        return {**self._entry(token, logprobs.chosen), "top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        own_bytes = list(self.tokenizer.token_bytes(token)) if self.tokenizer else None
        return {"token": self._token_text(token), "logprob": finite(logprob), "bytes": own_bytes}


class CompletionFormat(_Format):
    """`text_completion`, the same object in a stream and whole."""

    KIND = CHUNK_KIND = "text_completion"
    ID_PREFIX = "cmpl"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begun: set[int] = set()  # choices of which a chunk was made

    def opening(self, choices: int) -> list[dict[str, Any]]:
        return []

    def chunk(self, delta: Delta) -> dict[str, Any]:
        choice = self._choice(Whole(delta.index, delta.text, delta.tokens, delta.finish, delta.stop_reason))
        if delta.finish is not None:
            choice["logprobs"] = None
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            choice |= self._prompt_token_ids(delta.index)
        return self._chunk(choice)

    def body(self, choices: list[Whole], usage: Usage) -> dict[str, Any]:
        return self._body([self._choice(choice) | self._prompt_token_ids(choice.index) for choice in choices], usage)

    def _choice(self, choice: Whole) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._logprobs(choice.tokens) if self.logprobs else None,
            "finish_reason": choice.finish and choice.finish.value,
            "stop_reason": choice.stop_reason,
            **self._token_ids(choice.tokens),
        }

    def _prompt_token_ids(self, index: int) -> dict[str, Any]:
        return {"prompt_token_ids": self.prompts[index // self.n]} if self.return_token_ids else {}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any]:
        known = [(token, token.logprobs) for token in tokens if token.logprobs is not None]
        return {
            "text_offset": [token.offset for token, _ in known],
            "token_logprobs": [finite(logprobs.chosen) for _, logprobs in known],
            "tokens": [self._token_text(token.id) for token, _ in known],
            "top_logprobs": [self._top(token.id, logprobs) for token, logprobs in known],
        }

    def _top(self, chosen: int, logprobs: TokenLogprobs) -> dict[str, float]:
        """By text, most likely first; the chosen token is always among them."""
        top: dict[str, float] = {}
        for id, logprob in (*logprobs.top, (chosen, logprobs.chosen)):
            top.setdefault(self._token_text(id), finite(logprob))
        return top


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is next to impossible."""
    return max(logprob, -9999.0)
