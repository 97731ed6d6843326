"""KServe's bodies: what clients send, checked, but for what the names in it mean.

A body is read as JSON whatever its Content-Type says: Triton's clients and the examples of its manual send none.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from starlette.exceptions import HTTPException

from llmserve.errors import RequestError
from llmserve.server.errors import not_an_object, shown
from llmserve.server.json_body import read_beside_others
from llmserve.server.protocol.body import Strict

MAX_ENTRIES = 64
"""Of a list of tensors, or of dimensions, and of parameters."""


def _few(value: Any) -> Any:
    """Raised for all at once; pydantic would list what is wrong with each of millions."""
    if isinstance(value, list | dict) and len(value) > MAX_ENTRIES:
        raise RequestError(
            f"{shown(value).capitalize()} of {len(value)} entries is too long here; at most {MAX_ENTRIES} are possible."
        )
    return value


Few = BeforeValidator(_few)
Values = Annotated[dict[str, Any], Few]


class InputTensor(Strict):
    name: str
    datatype: str
    shape: Annotated[list[int], Few]
    parameters: Values | None = None  # binary_data_size: it lies behind the JSON, and has so many bytes
    data: list[Any] | None = None


class OutputTensor(Strict):
    name: str
    parameters: Values | None = None  # binary_data: as bytes behind the JSON


class InferBody(Strict):
    """POST …/infer."""

    inputs: Annotated[list[InputTensor], Few]
    id: str | None = None
    parameters: Values | None = None
    outputs: Annotated[list[OutputTensor] | None, Few] = None  # None or empty: all there are


class GenerateBody(BaseModel):
    """POST …/generate and …/generate_stream. What has no name here is a parameter, as are those of `parameters`."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    text_input: str
    id: str | None = None
    parameters: Values | None = None

    _few = model_validator(mode="before")(_few)


class IndexBody(Strict):
    """POST /v2/repository/index."""

    ready: bool | None = None


class ModelBody(Strict):
    """POST …/load and …/unload."""

    parameters: Values | None = None


Kind = TypeVar("Kind", bound=BaseModel)


async def read(request: Request, kind: type[Kind]) -> Kind:
    """Nothing counts as an empty object. Raises what `errors.answer` knows."""
    return await parse(request, (await request.body()) or b"{}", kind)


async def parse(request: Request, raw: bytes, kind: type[Kind]) -> Kind:
    """`raw`: the part of the request's body that is JSON."""
    try:
        data = await read_beside_others(request, raw)
    except json.JSONDecodeError as e:
        raise RequestError(f"The body is not valid JSON ({e.msg} at character {e.pos}).") from None
    except (RecursionError, ValueError) as e:
        raise HTTPException(400) from e
    if not isinstance(data, dict):
        raise RequestError(not_an_object(data))
    return validated(kind, data)


def validated(kind: type[Kind], data: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate(data)
    except ValidationError as e:
        raise RequestValidationError(e.errors()) from None


def described(kind: type[BaseModel], *, optional: bool = False) -> dict[str, Any]:
    """For OpenAPI: a route's body, which FastAPI does not see as the route reads it itself."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(definitions[node["$ref"].rpartition("/")[2]])
        return {key: inlined(value) for key, value in node.items()}

    return {"requestBody": {"required": not optional, "content": {"application/json": {"schema": inlined(schema)}}}}
