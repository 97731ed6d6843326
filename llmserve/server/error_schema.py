"""How errors look, for OpenAPI: OpenAI's clients' shape and KServe's. `errors` makes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: Error


class KServeError(BaseModel):
    error: str


def _responses(kind: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        "4XX": {"model": kind, "description": "The request cannot be served: one sentence says why."},
        "5XX": {"model": kind, "description": "The server cannot serve it now, or made a mistake."},
    }


OPENAI_ERRORS = _responses(ErrorBody)
KSERVE_ERRORS = _responses(KServeError)
