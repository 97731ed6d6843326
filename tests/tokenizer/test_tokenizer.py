"""Loading a tokenizer from an engine's files, and what single tokens are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.errors import EngineDirError, RequestError
from llmserve.tokenizer import Conversation, Text, Tokenizer
from llmserve.tokenizer.prompts.plain import PlainPrompt
from tests.shared import shared

from .conftest import byte_level, llama_decoder, sentencepiece_like, tokenizer_of


@pytest.mark.parametrize("name", ["stories260K-hf", "zh-poem-hf"])
def test_prompts_are_encoded_as_the_reference_did(name: str) -> None:
    folder = shared(f"models/{name}")
    tokenizer = Tokenizer.load(folder)
    for prompt, golden in json.loads((folder / "golden.json").read_text("utf-8")).items():
        assert tokenizer.encode(prompt, add_special_tokens=True) == golden["prompt_ids"]
        if "text" in golden:  # of one model with its prompt
            text = tokenizer.decode(golden["prompt_ids"] + golden["greedy_ids"])
            assert golden["text"] in (text, text.removeprefix(prompt))
    assert tokenizer.special_ids == {0, 1, 2}


def save(folder: Path, config: object = None, template_file: str | None = None) -> Path:
    byte_level().save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    if template_file is not None:
        (folder / "chat_template.jinja").write_text(template_file, "utf-8")
    return folder


MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "config, template_file, expected",
    [
        ({"chat_template": "A {{ eos_token }}", "eos_token": "<|end|>"}, None, "A <|end|>"),
        ({"chat_template": "A{{ bos_token }}", "bos_token": {"content": "<s>"}, "add_bos_token": True}, None, "A<s>"),
        ({"chat_template": "A", "eos_token": None}, "B", "B"),
        ({"chat_template": [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}]}, None, "D"),
        ({"chat_template": "{{ additional_special_tokens }}", "additional_special_tokens": ["<x>"]}, None, "['<x>']"),
    ],
)
def test_where_the_chat_template_comes_from(
    tmp_path: Path, config: object, template_file: str | None, expected: str
) -> None:
    chat = Tokenizer.load(save(tmp_path, config, template_file)).chat
    assert chat.told == "the checkpoint's chat template"
    assert chat.parts(Conversation(MESSAGES)) == [Text(expected, names_are_tokens=True)]


@pytest.mark.parametrize("stray", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_of_an_engine_only_what_its_manifest_lists_is_read(tmp_path: Path, stray: str) -> None:
    """What was put beside it later nobody has checked."""
    save(tmp_path)
    (tmp_path / stray).write_text('{"chat_template": "S"}', "utf-8")
    (tmp_path / "other.tiktoken").write_text("no vocabulary", "utf-8")
    assert not isinstance(Tokenizer.load(tmp_path).chat, PlainPrompt)
    assert isinstance(Tokenizer.load(tmp_path, listed={"tokenizer.json"}).chat, PlainPrompt)
    with pytest.raises(EngineDirError, match="none of the engine's files"):
        Tokenizer.load(tmp_path, listed=())


def test_a_tokenizer_without_a_chat_template(tmp_path: Path) -> None:
    assert isinstance(Tokenizer.load(save(tmp_path)).chat, PlainPrompt)


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_damaged_tokenizer_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EngineDirError, match=r"tokenizer\.json is not a usable tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_tokenizer_config_is_one_sentence(tmp_path: Path, content: str) -> None:
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(EngineDirError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "config", [{"chat_template": 5}, {"chat_template": [{"name": "default", "template": 5}]}, {"chat_template": ["x"]},
               {"chat_template": "x", "eos_token": {}}, {"chat_template": "x", "additional_special_tokens": [5]}],
)  # fmt: skip
def test_a_chat_template_that_is_no_text_is_one_sentence(tmp_path: Path, config: object) -> None:
    with pytest.raises(EngineDirError, match=r"tokenizer_config\.json has a .* that is no text; build"):
        Tokenizer.load(save(tmp_path, config))


def test_chat_templates_of_which_none_is_the_default_are_none(tmp_path: Path) -> None:
    assert isinstance(Tokenizer.load(save(tmp_path, {"chat_template": [{"x": 1}]})).chat, PlainPrompt)


def test_a_chat_template_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(EngineDirError, match=r"chat_template\.jinja is not UTF-8 \("):
        Tokenizer.load(tmp_path)


def test_the_bytes_of_a_byte_level_token() -> None:
    tokenizer = tokenizer_of(byte_level())
    tokens = tokenizer.encode(" w明", add_special_tokens=False)
    assert b"".join(tokenizer.token_bytes(token) for token in tokens) == " w明".encode()
    assert tokenizer.token_text(tokens[0]) == " w"
    assert tokenizer.token_bytes(max(tokenizer.special_ids)) == b"<|start|>"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 3) == b""


def test_the_bytes_of_a_sentencepiece_token() -> None:
    backend = sentencepiece_like(llama_decoder())
    tokenizer = tokenizer_of(backend)
    assert tokenizer.token_bytes(3 + 0xE6) == b"\xe6"
    assert tokenizer.token_text(3 + 0xE6) == "�"
    assert tokenizer.token_bytes(backend.token_to_id("▁hello")) == b" hello"
    assert tokenizer.token_bytes(backend.token_to_id("</s>")) == b"</s>"


def test_text_that_is_not_unicode_is_the_clients_error() -> None:
    with pytest.raises(RequestError, match="character 1 is a lone surrogate"):
        tokenizer_of(byte_level()).encode("a\ud800", add_special_tokens=True)


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, llmserve.tokenizer; "
        "heavy = {'torch', 'numpy', 'transformers', 'safetensors', 'fastapi', 'zmq'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
