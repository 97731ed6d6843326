"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from llmserve.server.asked import ask
from llmserve.server.chat_format import ChatFormat
from llmserve.server.json_body import JsonRoute
from llmserve.server.protocol.chat import ChatBody
from llmserve.server.respond import respond
from llmserve.server.serving import Serving
from llmserve.tokenizer import Conversation


def chat_routes(serving: Serving) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        limit_param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        serving.check(body, prompts=1, prompt_param="messages", limit=limit, limit_param=limit_param)
        asked = await ask(
            serving,
            conversation(body),
            body.tool_use,
            body.form,
            keeps_reasoning=body.include_reasoning is not False,
            param="messages",
            timeout=body.timeout,
            receive=request.receive,
            cut=body.is_cut,
        )
        prompt = body.kept(asked.prompt)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        job = serving.job(
            body,
            [prompt],
            prompt_param="messages",
            limit=limit,
            limit_param=limit_param,
            default_limit=serving.manifest.generation.max_tokens,
            logprobs=logprobs,
            prompt_logprobs=body.prompt_logprobs,
            continues_text=False,
            stop_ids=serving.need_tokenizer("messages").chat.stop_ids,
            grammar=asked.grammar,
        )
        format = ChatFormat(
            model=serving.model_name,
            tokenizer=serving.tokenizer,
            prompts=[prompt],
            n=job.n,
            include_usage=body.include_usage,
            return_token_ids=bool(body.return_token_ids),
            prompt_logprobs=body.prompt_logprobs,
            logprobs=logprobs,
            reading=asked.reading,
        )
        return await respond(
            request,
            serving.start(asked.readable(job)),
            format,
            stream=bool(body.stream),
            continuous_usage=body.continuous_usage,
            ping_s=serving.sse_ping_interval,
        )

    return routes


def conversation(body: ChatBody) -> Conversation:
    """What the model is to read. It is not told of tools that it must not use."""
    use = body.tool_use
    return Conversation(
        body.messages,
        tools=None if use is None else use.tools,
        documents=body.documents,
        reasoning_effort=body.reasoning_effort,
        variables=body.chat_template_kwargs or {},
    )
