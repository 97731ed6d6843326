"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from llmserve.server.deadline import Deadline
from llmserve.server.json_body import JsonRoute
from llmserve.server.openai_format import CompletionFormat
from llmserve.server.protocol.completion import CompletionBody
from llmserve.server.respond import respond
from llmserve.server.serving import Serving

DEFAULT_MAX_TOKENS = 16
"""OpenAI's for this endpoint."""


def completion_routes(serving: Serving) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        deadline = Deadline(body.timeout)
        limit = 1 if body.max_tokens == 0 else body.max_tokens  # the engine makes at least one
        serving.check(body, prompts=len(body.prompt), prompt_param="prompt", limit=limit, known=body.prompt)
        special = body.add_special_tokens is not False
        texts = [prompt for prompt in body.prompt if isinstance(prompt, str)]
        encoded = iter(
            await serving.encode(texts, add_special_tokens=special, param="prompt", cut=body.is_cut) if texts else ()
        )
        prompts = [next(encoded) if isinstance(prompt, str) else tuple(prompt) for prompt in body.prompt]
        prompts = [body.kept(prompt) for prompt in prompts]
        # What is echoed is told of as the answer is.
        told = [n for n in (body.prompt_logprobs, body.logprobs if body.echo else None) if n is not None]
        grammar = await serving.grammar(body.form, deadline, request.receive)
        job = serving.job(
            body,
            prompts,
            prompt_param="prompt",
            limit=limit,
            limit_param="max_tokens",
            default_limit=DEFAULT_MAX_TOKENS,
            logprobs=body.logprobs,
            prompt_logprobs=max(told, default=None),
            continues_text=True,
            grammar=grammar,
        )
        format = CompletionFormat(
            model=serving.model_name,
            tokenizer=serving.tokenizer,
            prompts=prompts,
            n=job.n,
            include_usage=body.include_usage,
            return_token_ids=bool(body.return_token_ids),
            prompt_logprobs=body.prompt_logprobs,
            logprobs=body.logprobs,
            echo=bool(body.echo),
        )
        return await respond(
            request,
            serving.start(replace(job, generates=body.max_tokens != 0, timeout=deadline.left)),
            format,
            stream=bool(body.stream),
            continuous_usage=body.continuous_usage,
            ping_s=serving.sse_ping_interval,
        )

    return routes
