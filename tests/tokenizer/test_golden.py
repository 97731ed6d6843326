"""Ids, texts and prompts of the originals: tokenizers whose own code was run, or the libraries they are made on."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Any

import pytest
import sentencepiece

from llmserve.tokenizer import Conversation, Detokenizer, Text, Tokenizer
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.prompts.baichuan import BaichuanPrompt
from llmserve.tokenizer.prompts.chatglm2 import ChatGLM2Prompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt
from llmserve.tokenizer.prompts.qwen1 import Qwen1Prompt
from llmserve.tokenizer.prompts.template import TemplatePrompt
from llmserve.tokenizer.sentencepiece_backend import load_model
from tests.shared import shared

FOLDERS = {
    "qwen1": "qwen1",
    "qwen1-tiktoken": "qwen1",
    "qwen2": "qwen2.5",
    "qwen2.5": "qwen2.5",
    "qwen2-vl": "qwen2.5",
    "qwen3_30b": "qwen3",
    "qwen3_30b_thinking_0527": "qwen3",
    "qwen3_coder": "qwen3",
    "llama3": "llama3",
}
"""Tokenizers that know the names of special tokens in a text."""

PLAIN = {
    "llama3-tiktoken": "llama3",
    "llama2-spm": "llama2",
    "chatglm2-3-spm": "chatglm3",
}
"""Bare vocabularies: all is text."""


@cache
def golden(name: str) -> Any:
    return json.loads((shared("tokenizers") / name).read_text("utf-8"))


@cache
def tokenizer_in(folder: str) -> Tokenizer:
    return Tokenizer.load(shared(f"tokenizers/{folder}"))


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_of_texts(name: str) -> None:
    texts, ids = golden("golden_tokens.json")["texts"], golden("golden_tokens.json")[name]
    tokenizer = tokenizer_in(FOLDERS[name])
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == ids


@pytest.mark.parametrize("name", PLAIN)
def test_ids_of_texts_that_are_nothing_but_text(name: str) -> None:
    texts, ids = golden("golden_tokens.json")["texts"], golden("golden_tokens.json")[name]
    backend = tokenizer_in(PLAIN[name])._backend
    assert [backend.encode_plain(text) for text in texts] == ids


@pytest.mark.parametrize("name", {**FOLDERS, **PLAIN})
def test_texts_of_ids_at_once_and_streamed(name: str) -> None:
    texts, all_ids = golden("golden_tokens.json")["texts"], golden("golden_tokens.json")[name]
    tokenizer = tokenizer_in((FOLDERS | PLAIN)[name])
    for text, ids in zip(texts, all_ids, strict=True):
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        assert decoded == (unicodedata.normalize("NFC", text) if "qwen" in name else text)
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
        assert "".join(map(detokenizer.feed, ids)) + detokenizer.end() == decoded


def test_pieces_of_a_model_that_normalises() -> None:
    model = load_model(shared("tokenizers/opus-mt-zh-en/source.spm"))
    texts = golden("golden_tokens.json")["texts"]
    assert [model.encode(text, out_type=str) for text in texts] == golden("golden_tokens.json")[
        "opus-zh-en-source-pieces"
    ]


def test_qwen_encodes_as_its_code() -> None:
    tokenizer = tokenizer_in("qwen1")
    for text, ids in golden("remote_chat_golden.json")["qwen1/encode"]:
        assert tokenizer.encode(text, add_special_tokens=True) == ids


@pytest.mark.parametrize("name", ["single", "multi", "nosys"])
def test_qwen_prompts(qwen_chat: Tokenizer, name: str) -> None:
    expected = golden("remote_chat_golden.json")[f"qwen1/{name}"]
    turns = [
        {"role": role, "content": content}
        for turn in expected["history"]
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    messages = [
        {"role": "system", "content": expected["system"]},
        *turns,
        {"role": "user", "content": expected["query"]},
    ]
    tokenizer = qwen_chat
    assert isinstance(tokenizer.chat, Qwen1Prompt)
    assert tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages))) == expected["ids"]
    assert tokenizer.decode(expected["ids"], skip_special_tokens=False) == expected["raw"]
    if expected["system"] == "You are a helpful assistant.":
        assert tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages[1:]))) == expected["ids"]


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_chatglm_encodes_as_its_code(family: str) -> None:
    tokenizer = tokenizer_in(family)
    for text, ids in golden("remote_chat_golden.json")[f"{family}/encode"]:
        assert tokenizer.encode(text, add_special_tokens=True) == ids


def test_chatglm_decodes_as_its_code() -> None:
    tokenizer = tokenizer_in("chatglm2")
    for text, decoded in golden("remote_chat_golden.json")["chatglm2/decode"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("name", ["single", "multi"])
def test_chatglm2_prompts(name: str) -> None:
    expected = golden("remote_chat_golden.json")[f"chatglm2/{name}"]
    messages = [
        {"role": role, "content": content}
        for turn in expected["history"]
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    tokenizer = tokenizer_in("chatglm2")
    assert isinstance(tokenizer.chat, ChatGLM2Prompt)
    parts = tokenizer.chat.parts(Conversation([*messages, {"role": "user", "content": expected["query"]}]))
    assert parts[-1].text == expected["prompt"]
    assert tokenizer.encode_parts(parts) == expected["ids"]


@pytest.mark.parametrize("name", ["single", "system", "multi", "tools", "observation"])
def test_chatglm3_prompts(name: str) -> None:
    expected = golden("remote_chat_golden.json")[f"chatglm3/{name}"]
    tools = next((turn["tools"] for turn in expected["history"] if "tools" in turn), None)
    role = {"observation": "tool"}.get(expected["role"], expected["role"])
    messages = [*expected["history"], {"role": role, "content": expected["query"]}]
    tokenizer = tokenizer_in("chatglm3")
    assert isinstance(tokenizer.chat, ChatGLM3Prompt)
    assert tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages, tools=tools))) == expected["ids"]


@pytest.mark.parametrize("name", ["single", "system", "multi"])
def test_chatglm3_prompts_of_a_template(name: str) -> None:
    """What its authors have in tokenizer_config.json since; names that a template writes are tokens here, too."""
    source = "[gMASK]sop{% for m in messages %}<|{{ m.role }}|>\n {{ m.content }}{% endfor %}<|assistant|>"
    prompt = TemplatePrompt({"default": ChatTemplate(source, {})}, "a template")
    expected = golden("remote_chat_golden.json")[f"chatglm3/{name}"]
    messages = [*expected["history"], {"role": "user", "content": expected["query"]}]
    assert tokenizer_in("chatglm3").encode_parts(prompt.parts(Conversation(messages))) == expected["ids"]


def test_chatglm3_tools_and_calls_as_openai_writes_them() -> None:
    """A tool call is the answer that ChatGLM3 gave; without a system message, tools have the authors' own."""
    tokenizer = tokenizer_in("chatglm3")
    expected = golden("remote_chat_golden.json")["chatglm3/observation"]
    system, question, _ = expected["history"]
    call = {"type": "function", "id": "1", "function": {"name": "track", "arguments": {"symbol": "10111"}}}
    messages = [
        {"role": "system", "content": system["content"]},
        question,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": expected["query"]},
    ]
    tools = [{"type": "function", "function": function} for function in system["tools"]]
    assert tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages, tools=tools))) == expected["ids"]
    expected = golden("remote_chat_golden.json")["chatglm3/tools"]
    messages = [{"role": "user", "content": expected["query"]}]
    assert tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages, tools=tools))) == expected["ids"]


def test_chatglm3_special_tokens_and_ends() -> None:
    tokenizer = tokenizer_in("chatglm3")
    remote = golden("remote_chat_golden.json")
    assert {name: tokenizer._backend.token_id(name) for name in remote["chatglm3/special"]} == remote[
        "chatglm3/special"
    ]
    assert {2, *tokenizer.chat.stop_ids} == set(remote["chatglm3/eos"])


def test_no_text_becomes_a_special_token_of_chatglm() -> None:
    tokenizer = tokenizer_in("chatglm3")
    for name in golden("remote_chat_golden.json")["chatglm3/special"]:
        assert not tokenizer.special_ids & set(tokenizer.encode(f"a {name} b", add_special_tokens=False))


def test_sentencepiece_texts_are_the_librarys() -> None:
    """What the original does with ids is the library's decoding of them."""
    model = sentencepiece.SentencePieceProcessor(str(shared("tokenizers/llama2/tokenizer.model")))
    tokenizer = tokenizer_in("llama2")
    for ids in golden("golden_tokens.json")["llama2-spm"]:
        assert tokenizer.decode([1, *ids, 2]) == model.decode(ids)


@pytest.mark.parametrize(
    "template, conversations",
    [
        ("vllm:template_baichuan.jinja", ["user", "sys_user", "multi", "nosys_multi", "think"]),
        ("vllm:template_chatglm2.jinja", ["user", "nosys_multi", "think"]),  # it leaves system messages out
        ("vllm:template_chatml.jinja", ["sys_user", "multi"]),  # it has no default system message
    ],
)
def test_formats_of_our_own_are_those_that_templates_write(template: str, conversations: list[str]) -> None:
    names = {1: "<reserved_106>", 2: "<reserved_107>", 3: "<|im_start|>", 4: "<|im_end|>"}
    prompt = {
        "vllm:template_baichuan.jinja": BaichuanPrompt(1, 2),
        "vllm:template_chatglm2.jinja": tokenizer_in("chatglm2").chat,
        "vllm:template_chatml.jinja": Qwen1Prompt(3, 4),
    }[template]
    for name in conversations:
        parts = prompt.parts(Conversation(golden("chat_golden.json")["conversations"][name]))
        text = "".join(part.text if isinstance(part, Text) else names.get(part, "") for part in parts)
        assert text == golden("chat_golden.json")["templates"][template][f"{name}|gen=1"]
