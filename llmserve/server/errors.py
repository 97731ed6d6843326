"""The one place where an error becomes an HTTP answer, in the shape that its path's clients expect."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmserve.engine.messages import Failed
from llmserve.errors import EngineDeadError, LlmserveError, RequestError
from llmserve.server.admission import QueueFullError, TooManyGrammarsError
from llmserve.server.engine_client import NotReadyError

MAX_MESSAGE = 1000
MAX_VALUE = 100
RETRY_AFTER_S = 5
KSERVE = "/v2"
"""Where its protocol begins."""


class ModelNotFoundError(LlmserveError):
    def __init__(self, asked: str, served: str) -> None:
        super().__init__(f"The model {shown(asked)} is not served here; use {shown(served)}.")


class TooLateError(LlmserveError):
    """A request's own time was up before there was anything to answer with."""

    def __init__(self, timeout: float) -> None:
        super().__init__(
            f"The request's timeout of {timeout:g} seconds was over before its answer was complete; give it more, or "
            "send it again later."
        )


@dataclass(frozen=True)
class ErrorAnswer:
    """What a client gets to see of an error."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's."""
        param = self.param and _bounded(self.param, MAX_VALUE)
        return {
            "error": {
                "message": _bounded(self.message, MAX_MESSAGE), "type": self.type, "param": param, "code": self.code
            }
        }  # fmt: skip

    def sentence(self) -> dict[str, Any]:
        """KServe's."""
        return {"error": _bounded(self.message, MAX_MESSAGE)}

    def response(self, path: str) -> JSONResponse:
        """As the clients of this path know it."""
        of_kserve = path == KSERVE or path.startswith(KSERVE + "/")
        return JSONResponse(self.sentence() if of_kserve else self.body(), self.status, self.headers)


def _bounded(text: str, most: int) -> str:
    """Short, and encodable: it may quote what the client sent."""
    return text[:most].encode(errors="replace").decode()


def answer(error: BaseException) -> ErrorAnswer:
    """Every kind of error there is. What is not ours says nothing of itself."""
    match error:
        case RequestError():
            return ErrorAnswer(400, str(error), "invalid_request_error", error.param, error.code)
        case RequestValidationError():
            return _invalid_body(error)
        case ModelNotFoundError():
            return ErrorAnswer(404, str(error), "invalid_request_error", "model", "model_not_found")
        case NotReadyError():
            code = "engine_dead" if isinstance(error.state, Failed) else "not_ready"
            retry = {"Retry-After": str(RETRY_AFTER_S)}
            return ErrorAnswer(503, str(error), "service_unavailable_error", None, code, retry)
        case QueueFullError():
            # The second is what OpenAI's clients look at first; whole seconds would gather a crowd again.
            retry = {"Retry-After": str(math.ceil(error.retry_after))}
            retry |= {"retry-after-ms": str(math.ceil(error.retry_after * 1000))}
            return ErrorAnswer(429, str(error), "rate_limit_error", None, "queue_full", retry)
        case TooManyGrammarsError():
            retry = {"Retry-After": str(error.retry_after)}
            return ErrorAnswer(429, str(error), "rate_limit_error", None, "grammar_queue_full", retry)
        case TooLateError():
            return ErrorAnswer(504, str(error), "server_error", "timeout", "timeout")
        case EngineDeadError():
            return ErrorAnswer(500, str(error), "server_error", None, "engine_error")
        case HTTPException(__cause__=RequestError() as reason):  # FastAPI wraps what reading a body raises
            return answer(reason)
        case HTTPException():
            return _http(error)
        case _:
            message = "The server made a mistake; its log has the details under this response's x-request-id."
            return ErrorAnswer(500, message, "server_error", None, "internal_error")


def shown(value: object) -> str:
    """A client's value as a message quotes it: readable and short."""
    if isinstance(value, str):
        return repr(value) if len(value) <= MAX_VALUE else repr(value[:MAX_VALUE]) + "…"
    if isinstance(value, int) and abs(value) >= 10**MAX_VALUE:  # printing it could take long
        return "a very large number"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return "a list" if isinstance(value, list) else "an object"


def not_an_object(body: object) -> str:
    """Of a body that is no JSON object: None where there is none, bytes where its Content-Type kept it from being
    read."""
    if body is None:
        return "The body is empty; send a JSON object."
    if isinstance(body, bytes):
        return "The body was not read as JSON; send it with the header Content-Type: application/json."
    return f"The body must be a JSON object, not {shown(body)}."


def _http(error: HTTPException) -> ErrorAnswer:
    message, code = {
        400: (_unreadable_body(error.__cause__) or str(error.detail), None),
        404: ("There is nothing at this path; GET /docs lists what there is.", "not_found"),
        405: ("This path does not take this method; GET /docs lists those it does.", "method_not_allowed"),
        408: (str(error.detail), "request_timeout"),
        413: (str(error.detail), "body_too_large"),
    }.get(error.status_code, (str(error.detail), None))
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return ErrorAnswer(error.status_code, message, kind, None, code, dict(error.headers or {}))


def _unreadable_body(cause: BaseException | None) -> str | None:
    """What json.loads says besides JSONDecodeError; FastAPI keeps it as the cause of a 400 without a reason."""
    match cause:
        case RecursionError():
            reason = "its lists and objects are nested too deeply"
        case UnicodeDecodeError():
            reason = f"byte {cause.start} is not UTF-8"
        case ValueError():
            reason = "it has a number with too many digits"
        case _:
            return None
    return f"The body is not valid JSON: {reason}."


def _invalid_body(error: RequestValidationError) -> ErrorAnswer:
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"] if part != "body"]
    param = ".".join(location) or None
    kind, value = problem["type"], problem.get("input")
    code = None
    if kind == "json_invalid":
        # Here FastAPI's location is where in the text the parser gave up.
        reason = str(problem.get("ctx", {}).get("error", ""))
        message, param = f"The body is not valid JSON ({reason} at character {location[-1]}).", None
    elif param is None:
        message = not_an_object(value)
    elif kind == "missing":
        message, code = f"{param} is missing.", "missing_required_parameter"
    else:
        message = f"{param} cannot be {shown(value)}: {problem['msg'][:1].lower()}{problem['msg'][1:]}."
    return ErrorAnswer(400, message, "invalid_request_error", param, code)
