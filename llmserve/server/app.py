"""The HTTP application: the routes, and what they share."""

from __future__ import annotations

import logging
import time

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import llmserve
from llmserve.config import Manifest, ServerConfig
from llmserve.engine.messages import Draining, Failed, Loading, Ready
from llmserve.errors import LlmserveError
from llmserve.server.admission import Admission
from llmserve.server.answers.choose import choose_forms
from llmserve.server.chat import chat_routes
from llmserve.server.completions import completion_routes
from llmserve.server.embeddings import embedding_routes
from llmserve.server.engine_client import EngineClient
from llmserve.server.error_schema import OPENAI_ERRORS
from llmserve.server.errors import RETRY_AFTER_S, ModelNotFoundError, answer
from llmserve.server.json_body import new_reader
from llmserve.server.kserve.routes import kserve_routes
from llmserve.server.metrics import Metrics
from llmserve.server.middleware import Edge
from llmserve.server.respond import CLIENT_CLOSED_REQUEST
from llmserve.server.responses import responses_routes
from llmserve.server.serving import Serving
from llmserve.server.tokenizing import tokenizer_routes
from llmserve.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def create_app(client: EngineClient, tokenizer: Tokenizer | None, manifest: Manifest, config: ServerConfig) -> FastAPI:
    """The front of one engine. `tokenizer` is None where the checkpoint had none. Raises ConfigError."""
    name = config.served_model_name or manifest.model_name
    metrics, admission = Metrics(client, name), Admission(config.max_queue)
    forms = choose_forms(tokenizer.chat if tokenizer else None, config.tool_call_parser, config.reasoning_parser)
    serving = Serving(client, tokenizer, manifest, name, metrics, admission, forms, config.sse_ping_interval)
    logger.info("Answers: %s", forms.told)
    if tokenizer is not None and manifest.executor == "native":
        serving.grammars.begin()  # while the engine is loading
    app = FastAPI(title="llmserve", version=llmserve.__version__, redirect_slashes=False, responses=OPENAI_ERRORS)
    app.state.body_reader = new_reader()
    app.add_middleware(Edge)
    for kind in (LlmserveError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.include_router(completion_routes(serving))
    app.include_router(chat_routes(serving))
    app.include_router(responses_routes(serving))
    app.include_router(kserve_routes(serving))
    app.include_router(tokenizer_routes(serving))
    app.include_router(embedding_routes(serving, config.pooling))
    app.include_router(_model_routes(serving))
    app.include_router(_operator_routes(serving))
    return app


async def _answer(request: Request, error: Exception) -> Response:
    return answer(error).response(request.url.path)


async def _nobody(request: Request, error: Exception) -> Response:
    """The client has left, so that what is answered only ends the exchange."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _model_routes(serving: Serving) -> APIRouter:
    routes = APIRouter()
    created = int(time.time())

    def card() -> dict[str, object]:
        return {
            "id": serving.model_name,
            "object": "model",
            "created": created,
            "owned_by": "llmserve",
            "max_model_len": serving.max_model_len,
        }

    @routes.head("/v1/models", include_in_schema=False)
    @routes.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card()]})

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> JSONResponse:
        if model != serving.model_name:
            raise ModelNotFoundError(model, serving.model_name)
        return JSONResponse(card())

    return routes


def _operator_routes(serving: Serving) -> APIRouter:
    routes = APIRouter()

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> JSONResponse:
        """200 when requests are taken; 503 and the reason otherwise."""
        match serving.client.state:
            case Ready():
                return JSONResponse({"status": "ok"})
            case Loading(phase, done, total):
                body = {"status": "loading", "phase": phase, "progress": done / total if total else 0.0}
            case Failed(error):
                body = {"status": "dead", "reason": error}
            case Draining():
                body = {"status": "draining"}
            case _:
                body = {"status": "stopped"}
        return JSONResponse(body, 503, {"Retry-After": str(RETRY_AFTER_S)})

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(serving.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @routes.head("/version", include_in_schema=False)
    @routes.get("/version")
    async def version() -> JSONResponse:
        return JSONResponse({"version": llmserve.__version__})

    return routes
