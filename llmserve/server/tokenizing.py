"""POST /tokenize and /detokenize: what the served model's tokenizer makes of texts, conversations and token ids."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llmserve.server.json_body import JsonRoute
from llmserve.server.protocol.tokenize import DetokenizeBody, TokenizeBody
from llmserve.server.serving import Serving
from llmserve.tokenizer import Conversation


def tokenizer_routes(serving: Serving) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> JSONResponse:
        serving.check_model(body.model)
        if body.prompt is not None:
            special = body.add_special_tokens is not False
            [tokens] = await serving.encode([body.prompt], add_special_tokens=special, param="prompt")
        else:
            chat = serving.need_tokenizer("messages").chat
            tokens = await serving.encode_parts(chat.parts(_conversation(body)), param="messages")
        strings = None
        if body.return_token_strs:
            tokenizer = serving.need_tokenizer("return_token_strs")
            strings = [tokenizer.token_text(token) for token in tokens]
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": serving.max_model_len,
                "tokens": tokens,
                "token_strs": strings,
            }
        )

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> JSONResponse:
        serving.check_model(body.model)
        return JSONResponse({"prompt": await serving.decode(body.tokens, param="tokens")})

    return routes


def _conversation(body: TokenizeBody) -> Conversation:
    return Conversation(
        body.messages or (),
        tools=body.tools,
        documents=body.documents,
        variables=body.chat_template_kwargs or {},
        awaits_answer=body.add_generation_prompt is not False,
    )
