"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from llmserve.server.openai_format import ChatFormat
from llmserve.server.protocol.chat import ChatBody
from llmserve.server.respond import respond
from llmserve.server.serving import Serving
from llmserve.tokenizer import Conversation


def chat_routes(serving: Serving) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        limit_param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        serving.check(body, prompts=1, prompt_param="messages", limit=limit, limit_param=limit_param)
        chat = serving.need_tokenizer("messages").chat
        prompt = await serving.encode_parts(chat.parts(conversation(body)), param="messages")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        prompt = body.kept(prompt)
        grammar = await serving.grammar(body.form)
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
            stop_ids=chat.stop_ids,
            grammar=grammar,
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
        )
        return await respond(
            request,
            serving.start(job),
            format,
            stream=bool(body.stream),
            continuous_usage=body.continuous_usage,
            ping_s=serving.sse_ping_interval,
        )

    return routes


def conversation(body: ChatBody) -> Conversation:
    """What the model is to read. It is not told of tools that it must not use."""
    return Conversation(
        body.messages,
        tools=body.tools if body.tool_choice != "none" else None,
        documents=body.documents,
        variables=body.chat_template_kwargs or {},
    )
