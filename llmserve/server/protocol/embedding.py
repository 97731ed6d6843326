"""The body of POST /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat

from llmserve.server.protocol.body import Body
from llmserve.server.protocol.generation import MAX_SALT_CHARS
from llmserve.server.protocol.values import TextsOrIds, texts_or_ids


def _inputs(value: Any) -> Any:
    return texts_or_ids(value, "input")


class EmbeddingBody(Body):
    input: Annotated[list[str | list[int]], BeforeValidator(_inputs, json_schema_input_type=TextsOrIds)]
    encoding_format: Literal["float", "base64"] | None = None  # None: float
    dimensions: int | None = Field(None, ge=1)
    # vLLM's
    add_special_tokens: bool | None = None
    priority: int | None = Field(None, ge=-(2**63), lt=2**63)
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_SALT_CHARS)
    # ours
    timeout: FiniteFloat | None = Field(None, gt=0)
    pooling: Literal["mean", "last"] | None = None  # None: as the server was told
