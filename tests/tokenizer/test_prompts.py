"""Chat prompts of our own: no message can forge what stands around it, and nothing that was said is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmserve.errors import RequestError
from llmserve.tokenizer import ChatPrompt, Conversation, Text, Tokenizer
from llmserve.tokenizer.prompts.chatglm2 import ChatGLM2Prompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt
from llmserve.tokenizer.prompts.llama2 import TAGS, Llama2Prompt
from llmserve.tokenizer.prompts.plain import PlainPrompt
from llmserve.tokenizer.prompts.qwen1 import Qwen1Prompt
from tests.shared import shared

from .conftest import byte_level, tokenizer_of


class Names:
    """A backend that knows every name, and numbers them."""

    prefix_ids = (7, 8)

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def token_id(self, name: str) -> int | None:
        return self.ids.setdefault(name, 100 + len(self.ids))


def made(kind: str) -> tuple[ChatPrompt, Names]:
    names: Any = Names()
    prompt: ChatPrompt | None = {
        "qwen1": Qwen1Prompt.of,
        "chatglm2": ChatGLM2Prompt,
        "chatglm3": ChatGLM3Prompt,
        "llama2": Llama2Prompt.of,
        "plain": PlainPrompt,
    }[kind](names)
    assert prompt is not None
    return prompt, names


KINDS = ("qwen1", "chatglm2", "chatglm3", "llama2", "plain")
contents = st.text(max_size=20) | st.sampled_from(["<|im_end|>", "<|im_start|>system\n", "<|user|>", "</s>", "<|end|>"])
turns = st.lists(st.tuples(contents, contents), max_size=3)


def messages(system: str | None, history: list[tuple[str, str]], question: str) -> list[dict[str, Any]]:
    said = [{"role": "system", "content": system}] if system is not None else []
    for asked, answered in history:
        said += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*said, {"role": "user", "content": question}]


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), system=st.none() | contents, history=turns, question=contents)
def test_what_messages_say_changes_no_token_between_texts(
    kind: str, system: str | None, history: list[tuple[str, str]], question: str
) -> None:
    prompt, _ = made(kind)
    history = [(asked or "?", answered) for asked, answered in history]
    said = messages(system, history, question)
    assume(kind != "llama2" or not any(tag in message["content"] for tag in TAGS for message in said))
    told = prompt.parts(Conversation(said))
    other = [("x", "y") for _ in history]
    same = prompt.parts(Conversation(messages(system and "z", other, "q")))
    assert [part if isinstance(part, int) else None for part in told] == [
        part if isinstance(part, int) else None for part in same
    ]
    assert not any(part.names_are_tokens for part in told if isinstance(part, Text))
    text = "".join(part.text for part in told if isinstance(part, Text))
    for message in said:
        assert message["content"].strip() in text


@pytest.mark.parametrize("folder", ["qwen1", "chatglm2", "chatglm3", "llama2"])
def test_names_of_special_tokens_in_messages_are_text(folder: str, request: pytest.FixtureRequest) -> None:
    chat = "qwen_chat" if folder == "qwen1" else None
    tokenizer: Tokenizer = request.getfixturevalue(chat) if chat else Tokenizer.load(shared(f"tokenizers/{folder}"))
    names = "<|im_start|> <|im_end|> <|endoftext|> <|extra_3|> [gMASK] sop <|user|> <|assistant|> <s> </s> <unk>"

    def special(content: str) -> list[int]:
        ids = tokenizer.encode_parts(tokenizer.chat.parts(Conversation(messages("s", [("a", content)], content))))
        return [id for id in ids if id in tokenizer.special_ids]

    assert special(names) == special("harmless")
    assert special(names), "or there is nothing to forge"


def test_qwen_parts() -> None:
    prompt, names = made("qwen1")
    start, end = names.ids["<|im_start|>"], names.ids["<|im_end|>"]
    line = Text("\n")
    assert prompt.parts(Conversation(messages("Be brief.", [], "hi"))) == [
        start, Text("system"), line, Text("Be brief."), end, line,
        start, Text("user"), line, Text("hi"), end, line,
        start, Text("assistant"), line,
    ]  # fmt: skip
    assert prompt.stop_ids == {start, end}


def test_chatglm2_rounds() -> None:
    prompt, _ = made("chatglm2")
    *prefix, text = prompt.parts(Conversation(messages("Be brief.", [("1+1?", "2")], "2+2?")))
    assert prefix == [7, 8]
    assert text == Text("[Round 1]\n\n问：Be brief.\n\n1+1?\n\n答：2\n\n[Round 2]\n\n问：2+2?\n\n答：")


def test_chatglm3_puts_calls_behind_what_was_said() -> None:
    prompt, names = made("chatglm3")
    call = {"function": {"name": "f", "arguments": {"x": 1, "y": "a'b"}}}
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "content": "42"},
    ]
    user, assistant = names.ids["<|user|>"], names.ids["<|assistant|>"]
    assert prompt.parts(Conversation(said)) == [
        7, 8,
        user, Text("\n"), Text("hi"),
        assistant, Text("\n"), Text("Let me see."),
        assistant, Text("f\n"), Text('```python\ntool_call(x=1, y="a\'b")\n```'),
        names.ids["<|observation|>"], Text("\n"), Text("42"),
        assistant,
    ]  # fmt: skip


def test_llama2_rounds() -> None:
    """As its authors' code: strip questions and answers, the system message inside the first question."""
    prompt, names = made("llama2")
    begin, end = names.ids["<s>"], names.ids["</s>"]
    assert prompt.parts(Conversation(messages(" Be brief. ", [(" 1+1? ", " 2\n")], " 2+2?"))) == [
        begin, Text("[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\n 1+1? [/INST] 2 "), end,
        begin, Text("[INST] 2+2? [/INST]"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "roles", [[], ["system"], ["assistant"], ["user", "user"], ["user", "assistant"], ["user", "system", "user"]]
)
def test_llama2_refuses_what_is_no_turn_taking(roles: list[str]) -> None:
    with pytest.raises(RequestError, match="in turn"):
        made("llama2")[0].parts(Conversation([{"role": role, "content": "x"} for role in roles]))


@pytest.mark.parametrize("tag", TAGS)
def test_llama2_refuses_its_tags_in_messages(tag: str) -> None:
    with pytest.raises(RequestError) as caught:
        made("llama2")[0].parts(Conversation(messages(None, [("a", f"b{tag}")], "c")))
    assert caught.value.param == "messages.1.content"


def test_the_default_is_speakers_and_lines() -> None:
    prompt, _ = made("plain")
    assert prompt.parts(Conversation(messages("Be brief.", [("1+1?", "2")], "2+2?"))) == [
        7, 8, Text("Be brief.\n\nUser: 1+1?\nAssistant: 2\nUser: 2+2?\nAssistant:"),
    ]  # fmt: skip


HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("param, value", [("tools", TOOLS), ("documents", [{}]), ("variables", {"x": 1})])
def test_what_a_format_cannot_tell_is_refused_and_not_dropped(kind: str, param: str, value: Any) -> None:
    prompt, _ = made(kind)
    conversation = Conversation(HI, **{param: value})
    if (kind, param) == ("chatglm3", "tools"):
        assert prompt.parts(conversation) != prompt.parts(Conversation(HI))
        return
    with pytest.raises(RequestError) as caught:
        prompt.parts(conversation)
    assert caught.value.param == {"variables": "chat_template_kwargs"}.get(param, param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "message, named",
    [
        ({"role": "tool", "content": "x"}, "role"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "tool_calls",
        ),
    ],
)
def test_tools_in_messages_too(kind: str, message: dict[str, Any], named: str) -> None:
    prompt, _ = made(kind)
    conversation = Conversation([*HI, message])
    if kind == "chatglm3":
        assert len(prompt.parts(conversation)) > len(prompt.parts(Conversation(HI)))
        return
    with pytest.raises(RequestError) as caught:
        prompt.parts(conversation)
    assert caught.value.param == f"messages.1.{named}"


@pytest.mark.parametrize("function", [{}, {"name": 5}, {"name": "f", "arguments": [1]}])
def test_chatglm3_refuses_calls_that_are_none(function: dict[str, Any]) -> None:
    prompt, _ = made("chatglm3")
    conversation = Conversation([{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}])
    with pytest.raises(RequestError):
        prompt.parts(conversation)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_parts_are_encoded_one_by_one(text: str) -> None:
    tokenizer = tokenizer_of(byte_level())
    end = tokenizer.encode("<|end|>", add_special_tokens=False)
    parts = [Text(text), 5, Text("<|end|>"), Text("<|end|>", names_are_tokens=True)]
    ids = tokenizer.encode_parts(parts)
    assert ids[-1:] == end
    assert end[0] not in ids[:-1]
    assert tokenizer.decode(ids[:-1]) == tokenizer.decode([*tokenizer.encode_parts([Text(text)]), 5]) + "<|end|>"


def test_a_text_that_spells_a_token_of_the_prompt_is_refused() -> None:
    """Of vocabularies that have such tokens among their ordinary pieces."""
    tokenizer = tokenizer_of(byte_level())
    [letter, *_] = tokenizer.encode_parts([Text("a")])
    assert tokenizer.encode_parts([Text("a", must_not_become=frozenset({letter + 1}))]) == [letter]
    with pytest.raises(RequestError, match="hold 'a', which this model takes"):
        tokenizer.encode_parts([Text("a", must_not_become=frozenset({letter}))])


def test_a_lone_surrogate_in_a_part_is_the_clients_error() -> None:
    with pytest.raises(RequestError, match="lone surrogate"):
        tokenizer_of(byte_level()).encode_parts([Text("\ud800")])
