"""POST /v1/responses: a conversation in OpenAI's newer form. What was said before is always sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from fastapi import APIRouter, Request, Response

from llmserve.errors import RequestError
from llmserve.server.asked import ask
from llmserve.server.generation import Generation
from llmserve.server.json_body import JsonRoute
from llmserve.server.protocol.responses import ResponsesBody
from llmserve.server.respond import problem_of, respond_whole
from llmserve.server.response_items import Event
from llmserve.server.responses_format import ResponsesFormat
from llmserve.server.serving import Serving
from llmserve.server.streaming import EventStreamResponse, encode
from llmserve.tokenizer import Conversation

EFFORT = "reasoning_effort"
"""What chat, and so a template, calls `reasoning.effort`."""


def responses_routes(serving: Serving) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/responses")
    async def responses(body: ResponsesBody, request: Request) -> Response:
        serving.check(
            body.generation,
            prompts=1,
            prompt_param="input",
            limit=body.max_output_tokens,
            limit_param="max_output_tokens",
        )
        try:
            asked = await ask(
                serving,
                conversation(body),
                body.tool_use,
                body.form,
                keeps_reasoning=True,
                param="input",
                timeout=body.timeout,
                receive=request.receive,
            )
        except RequestError as e:
            if e.param != EFFORT:
                raise
            raise RequestError(str(e).replace(EFFORT, "reasoning.effort"), param="reasoning.effort") from None
        job = serving.job(
            body.generation,
            [asked.prompt],
            prompt_param="input",
            limit=body.max_output_tokens,
            limit_param="max_output_tokens",
            default_limit=serving.manifest.generation.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
            prompt_logprobs=None,
            continues_text=False,
            stop_ids=serving.need_tokenizer("input").chat.stop_ids,
            grammar=asked.grammar,
        )
        format = ResponsesFormat(
            model=serving.model_name,
            body_sent=body,
            temperature=job.sampling.temperature,
            top_p=job.sampling.top_p,
            reading=asked.reading,
            tokenizer=serving.need_tokenizer("input"),
        )
        # What every event repeats of the body is encoded before anything is started; then a failure can be told, too.
        opening = _encoded(format.opening()) if body.stream else b""
        generation = serving.start(asked.readable(job))
        if body.stream:
            events = _events(generation, format, opening)
            return EventStreamResponse(events, on_end=generation.close, ping_s=serving.sse_ping_interval)
        return await respond_whole(request, generation, format)

    return routes


def conversation(body: ResponsesBody) -> Conversation:
    use = body.tool_use
    return Conversation(
        body.messages,
        tools=None if use is None else use.tools,
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        variables=body.chat_template_kwargs or {},
    )


async def _events(generation: Generation, format: ResponsesFormat, opening: bytes) -> AsyncIterator[bytes]:
    """The last of them says how it ended; nothing comes after that."""
    try:
        yield opening
        async for batch in generation.batches():
            if told := b"".join(_encoded(format.events(delta)) for delta in batch):
                yield told
        yield _encoded(format.ending(generation.usage))
    except Exception as e:
        yield _encoded(format.failure(problem_of(e)))


def _encoded(events: Iterable[Event]) -> bytes:
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n" for event in events)
