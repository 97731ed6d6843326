"""Against the outside: OpenAI's own types, and bodies that nobody thought of."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from llmserve.server.protocol.chat import ChatBody
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.protocol.responses import ResponsesBody
from llmserve.server.protocol.unsupported import ASKS_FOR_NOTHING

from .chunks import stream
from .conftest import Front

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def test_every_body_is_of_openais_types(front: Front) -> None:
    chat = {"messages": HI, "n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 30}
    text = {"prompt": ["a", "b"], "logprobs": 2, "max_tokens": 30}
    usage = {"stream_options": {"include_usage": True}}
    ChatCompletion.model_validate(front.post(CHAT, **chat).json(), strict=True)
    Completion.model_validate(front.post("/v1/completions", **text).json(), strict=True)
    for chunk in stream(front, CHAT, **chat, **usage):
        ChatCompletionChunk.model_validate(chunk, strict=True)
    for chunk in stream(front, "/v1/completions", **text, **usage):
        if chunk["choices"] and chunk["choices"][0]["finish_reason"] is None:
            # The type of a whole completion, which always has a reason.
            chunk["choices"][0]["finish_reason"] = "stop"
        Completion.model_validate(chunk, strict=True)
    for model in front.http.get("/v1/models").json()["data"]:
        Model.model_validate(model, strict=True)


BODIES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/completions": (CompletionBody, {"prompt": "hi", "max_tokens": 3}),
    CHAT: (ChatBody, {"messages": HI, "max_tokens": 3}),
    "/v1/responses": (ResponsesBody, {"input": "hi", "max_output_tokens": 3}),
}
names = st.sampled_from(
    sorted({*ASKS_FOR_NOTHING, *(name for body, _ in BODIES.values() for name in body.model_fields)})
)
names |= st.text()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["hi", 1, 16, "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(extra=st.dictionaries(names, values, max_size=3), path=st.sampled_from(sorted(BODIES)))
def test_no_body_is_answered_with_anything_but_200_or_a_named_400(
    front: Front, extra: dict[str, Any], path: str
) -> None:
    response = front.post(path, **{**BODIES[path][1], **extra})
    assert response.status_code in (200, 400, 404), (extra, response.text)
    if response.status_code != 200:
        assert response.json()["error"]["param"] is not None
