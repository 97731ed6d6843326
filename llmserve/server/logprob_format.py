"""Log-probabilities of tokens as OpenAI tells them of chats and responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmserve.request import TokenLogprobs
from llmserve.server.generation import Token
from llmserve.tokenizer import Tokenizer


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is next to impossible."""
    return max(logprob, -9999.0)


def token_text(tokenizer: Tokenizer | None, token: int) -> str:
    """For people to read; without a tokenizer its id."""
    return tokenizer.token_text(token) if tokenizer else f"token_id:{token}"


def entries(tokenizer: Tokenizer | None, tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Of each that something is known of: its own, and those of the most likely ones."""
    return [_with_top(tokenizer, token.id, token.logprobs) for token in tokens if token.logprobs is not None]


def _with_top(tokenizer: Tokenizer | None, token: int, logprobs: TokenLogprobs) -> dict[str, Any]:
    top = [_entry(tokenizer, id, logprob) for id, logprob in logprobs.top]
    return {**_entry(tokenizer, token, logprobs.chosen), "top_logprobs": top}


def _entry(tokenizer: Tokenizer | None, token: int, logprob: float) -> dict[str, Any]:
    own_bytes = list(tokenizer.token_bytes(token)) if tokenizer else None
    return {"token": token_text(tokenizer, token), "logprob": finite(logprob), "bytes": own_bytes}
