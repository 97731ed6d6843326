"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from llmserve.errors import RequestError
from llmserve.server.openai_format import ChatFormat
from llmserve.server.openai_protocol import ChatBody
from llmserve.server.respond import respond
from llmserve.server.serving import Serving

OWN_VARIABLES = {"messages", "tools", "documents", "add_generation_prompt"}


def chat_routes(serving: Serving) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        serving.check(body)
        [prompt] = await serving.encode([render(serving, body)], add_special_tokens=False, param="messages")
        job = serving.job(
            body,
            [prompt],
            prompt_param="messages",
            limit=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
            limit_param="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
            default_limit=None,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            continues_text=False,
        )
        format = ChatFormat(
            model=serving.model_name,
            tokenizer=serving.tokenizer,
            prompts=[prompt],
            n=job.n,
            include_usage=body.include_usage,
            return_token_ids=bool(body.return_token_ids),
            logprobs=bool(body.logprobs),
        )
        return await respond(request, serving.start(job), format, stream=bool(body.stream))

    return routes


def render(serving: Serving, body: ChatBody) -> str:
    """The prompt's text. The template writes the special tokens itself."""
    template = serving.need_tokenizer("messages").chat_template
    if template is None:
        raise RequestError(
            f"{serving.model_name} has no chat template, so it cannot take messages; use /v1/completions.",
            param="messages",
        )
    variables = body.chat_template_kwargs or {}
    taken = sorted(variables.keys() & OWN_VARIABLES)
    if taken:
        raise RequestError(
            f"chat_template_kwargs cannot set {taken[0]}; leave it out.", param=f"chat_template_kwargs.{taken[0]}"
        )
    return template.render(body.messages, variables=variables)
