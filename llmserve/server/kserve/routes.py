"""KServe's paths."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from llmserve.engine.messages import Loading, Ready
from llmserve.errors import RequestError
from llmserve.server.engine_client import NotReadyError
from llmserve.server.error_schema import KSERVE_ERRORS
from llmserve.server.errors import RETRY_AFTER_S, ModelNotFoundError, shown
from llmserve.server.kserve.generate import GenerateFormat, generate_completion
from llmserve.server.kserve.inference import answer_body, inference, start
from llmserve.server.kserve.metadata import VERSION, model_config, model_metadata, server_metadata
from llmserve.server.kserve.protocol import (
    GenerateBody,
    IndexBody,
    InferBody,
    ModelBody,
    described,
    parse,
    read,
)
from llmserve.server.kserve.statistics import Statistics
from llmserve.server.respond import CLIENT_CLOSED_REQUEST, collect
from llmserve.server.serving import Serving
from llmserve.server.streaming import EventStreamResponse

HEADER_LENGTH = "inference-header-content-length"
"""Of a body whose JSON is followed by tensors: the bytes of the JSON."""


def kserve_routes(serving: Serving) -> APIRouter:
    routes = APIRouter(tags=["kserve"], responses=KSERVE_ERRORS)
    routes.include_router(_server_routes(serving))
    routes.include_router(_repository_routes(serving))
    routes.include_router(_model_routes(serving))
    return routes


def _server_routes(serving: Serving) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v2")
    async def server() -> JSONResponse:
        return JSONResponse(server_metadata())

    @routes.get("/v2/health/live")
    async def live() -> JSONResponse:
        return JSONResponse({"live": True})

    @routes.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        return _ready(serving)

    return routes


def _repository_routes(serving: Serving) -> APIRouter:
    """The repository has one model, which is there from the server's start to its end."""
    routes = APIRouter()

    @routes.post("/v2/repository/index", openapi_extra=described(IndexBody, optional=True))
    async def index(request: Request) -> JSONResponse:
        body = await read(request, IndexBody)
        state = serving.client.state
        entry = {"name": serving.model_name, "version": VERSION, "state": "READY", "reason": ""}
        if not isinstance(state, Ready):
            entry |= {
                "state": "LOADING" if isinstance(state, Loading) else "UNAVAILABLE",
                "reason": str(NotReadyError(state)),
            }
        return JSONResponse([] if body.ready and not isinstance(state, Ready) else [entry])

    @routes.post("/v2/repository/models/{model:path}/load", openapi_extra=described(ModelBody, optional=True))
    async def load(model: str, request: Request) -> JSONResponse:
        body = await read(request, ModelBody)
        _check_model(serving, request)
        for name in body.parameters or ():
            raise RequestError(f"{name[:100]} is not supported: a model is loaded as its engine was built.", param=name)
        if not isinstance(serving.client.state, Ready):
            raise NotReadyError(serving.client.state)
        return JSONResponse({})

    @routes.post("/v2/repository/models/{model:path}/unload", openapi_extra=described(ModelBody, optional=True))
    async def unload(model: str, request: Request) -> JSONResponse:
        await read(request, ModelBody)
        _check_model(serving, request)
        raise RequestError(
            f"{shown(serving.model_name)} cannot be unloaded: it is the one model that this server is for; stop the "
            "server instead."
        )

    return routes


def _model_routes(serving: Serving) -> APIRouter:
    """Each with and without a version in its path."""
    routes = APIRouter()
    statistics = Statistics()

    async def ready(model: str, request: Request) -> JSONResponse:
        _check_model(serving, request)
        return _ready(serving)

    async def config(model: str, request: Request) -> JSONResponse:
        _check_model(serving, request)
        return JSONResponse(model_config(serving.model_name, serving.most_choices))

    async def stats(model: str, request: Request) -> JSONResponse:
        _check_model(serving, request)
        return JSONResponse(statistics.body(serving.model_name, VERSION))

    async def metadata(model: str, request: Request) -> JSONResponse:
        _check_model(serving, request)
        return JSONResponse(model_metadata(serving.model_name))

    async def infer(model: str, request: Request) -> Response:
        _check_model(serving, request)
        body, binary = _split(await request.body(), request)
        asked = inference(await parse(request, body, InferBody), binary)
        generation = await start(serving, asked.body)
        try:
            with statistics.request(len(asked.texts)):
                choices = await collect(request, generation)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        told, behind = answer_body(asked, choices, _head(serving))
        if not behind:
            return Response(told, media_type="application/json")
        return Response(told + behind, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(told))})

    async def generate(model: str, request: Request) -> Response:
        _check_model(serving, request)
        asked = await read(request, GenerateBody)
        body = generate_completion(asked)
        if body.stream:
            raise RequestError("generate answers once; send stream: true to generate_stream.", param="stream")
        generation = await start(serving, body)
        try:
            with statistics.request(1):
                [choice] = await collect(request, generation)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(GenerateFormat(_head(serving, asked)).body(choice))

    async def generate_stream(model: str, request: Request) -> Response:
        _check_model(serving, request)
        asked = await read(request, GenerateBody)
        body = generate_completion(asked)
        generation = await start(serving, body)
        format = GenerateFormat(_head(serving, asked))
        chunks = format.chunks(generation, statistics, at_once=body.stream is False)
        return EventStreamResponse(chunks, on_end=generation.close, ping_s=serving.sse_ping_interval)

    for at in ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}"):
        told: dict[str, Any] = {"include_in_schema": "{version}" not in at}
        routes.add_api_route(f"{at}/ready", ready, **told)
        routes.add_api_route(f"{at}/config", config, **told)
        routes.add_api_route(f"{at}/stats", stats, **told)
        routes.add_api_route(f"{at}/infer", infer, methods=["POST"], openapi_extra=described(InferBody), **told)
        for path, answer in (("generate", generate), ("generate_stream", generate_stream)):
            extra = described(GenerateBody)
            routes.add_api_route(f"{at}/{path}", answer, methods=["POST"], openapi_extra=extra, **told)
        routes.add_api_route(at, metadata, **told)
    return routes


def _check_model(serving: Serving, request: Request) -> None:
    """Raises ModelNotFoundError where the path names another model, or another version."""
    model, version = request.path_params["model"], request.path_params.get("version", VERSION)
    if version != VERSION:
        raise ModelNotFoundError(f"{model} version {version}", f"{serving.model_name} version {VERSION}")
    if model != serving.model_name:
        raise ModelNotFoundError(model, serving.model_name)


def _ready(serving: Serving) -> JSONResponse:
    if isinstance(serving.client.state, Ready):
        return JSONResponse({"ready": True})
    return JSONResponse({"ready": False}, 503, {"Retry-After": str(RETRY_AFTER_S)})


def _head(serving: Serving, asked: GenerateBody | None = None) -> dict[str, Any]:
    id = {"id": asked.id} if asked is not None and asked.id is not None else {}
    return {**id, "model_name": serving.model_name, "model_version": VERSION}


def _split(body: bytes, request: Request) -> tuple[bytes, bytes]:
    """A body's JSON, and the bytes behind it."""
    if encoding := request.headers.get("content-encoding"):
        raise RequestError(f"The body's Content-Encoding {shown(encoding)} is not supported; send it as it is.")
    length = request.headers.get(HEADER_LENGTH)
    if length is None:
        return body, b""
    if not (length.isdecimal() and len(length) < 20 and int(length) <= len(body)):
        raise RequestError(
            f"Inference-Header-Content-Length is {shown(length)}, which is no part of a body of {len(body)} bytes."
        )
    return body[: int(length)], body[int(length) :]
