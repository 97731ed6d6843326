"""Which files become which vocabulary, and what of tokenizer_config.json counts beside them."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import EngineDirError
from llmserve.tokenizer import Conversation, Text, Tokenizer, vocabulary_files
from llmserve.tokenizer.pieces import byte_alphabet
from llmserve.tokenizer.prompts.chatglm2 import ChatGLM2Prompt
from llmserve.tokenizer.prompts.chatglm3 import ChatGLM3Prompt
from llmserve.tokenizer.prompts.llama2 import Llama2Prompt
from llmserve.tokenizer.prompts.plain import PlainPrompt
from llmserve.tokenizer.prompts.qwen1 import Qwen1Prompt
from llmserve.tokenizer.prompts.template import TemplatePrompt
from tests.shared import shared

from .conftest import byte_level, trained_model
from .test_tiktoken_file import write

BYTES = {bytes([i]): i for i in range(256)}


def folder_of(tmp_path: Path, tokenizer_config: Any = None, config: Any = None, generation: Any = None) -> Path:
    for name, content in (
        ("tokenizer_config.json", tokenizer_config),
        ("config.json", config),
        ("generation_config.json", generation),
    ):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content), "utf-8")
    return tmp_path


def with_model(folder: Path, **options: object) -> Path:
    (folder / "tokenizer.model").write_bytes(trained_model(**options))
    return folder


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=True)


def test_tokenizer_json_goes_before_everything_else(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "qwen.tiktoken", BYTES)
    assert Tokenizer.load(tmp_path).vocab_size == byte_level().get_vocab_size()
    assert [path.name for path in vocabulary_files(tmp_path)] == ["tokenizer.json"]


def test_qwen(tmp_path: Path) -> None:
    write(tmp_path / "qwen.tiktoken", BYTES)
    tokenizer = Tokenizer.load(tmp_path)
    assert isinstance(tokenizer.chat, Qwen1Prompt)
    assert ids(tokenizer, "a<|im_end|><|extra_204|>") == [97, 258, 256 + 3 + 204]
    assert tokenizer.vocab_size == 256 + 208
    assert bytes(ids(tokenizer, "e\u0301")) == "é".encode()
    # A combining character changes the `>` before it: what stands there is no name any more.
    assert 258 not in ids(tokenizer, "<|im_end|>\u0338")
    assert bytes(ids(tokenizer, "\u05bb\u0d3b\u1ab4")) == unicodedata.normalize("NFC", "\u05bb\u0d3b\u1ab4").encode()
    folder_of(tmp_path, generation={"chat_format": "raw"})
    assert isinstance(Tokenizer.load(tmp_path).chat, PlainPrompt), "a base model"


def test_the_class_is_one_that_reads_the_vocabulary_there_is(tmp_path: Path) -> None:
    write(tmp_path / "qwen.tiktoken", BYTES)
    folder_of(tmp_path, {"tokenizer_class": "LlamaTokenizer"}, {"model_type": "gpt2"})
    assert Tokenizer.load(tmp_path).vocab_size == 256 + 208


def test_a_class_beside_tokenizer_json_says_how_the_model_chats(tmp_path: Path) -> None:
    made = byte_level()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    assert isinstance(Tokenizer.load(tmp_path).chat, PlainPrompt)
    folder_of(tmp_path, {"tokenizer_class": "LlamaTokenizerFast"})
    assert isinstance(Tokenizer.load(tmp_path).chat, Llama2Prompt)


def test_a_llama3_of_nothing_but_ranks(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer.model", BYTES)
    tokenizer = Tokenizer.load(tmp_path)
    assert ids(tokenizer, "a<|eot_id|>") == [256, 97, 256 + 9]
    assert tokenizer.vocab_size == 256 + 256
    assert isinstance(tokenizer.chat, PlainPrompt)


def test_glm4_with_and_without_its_tokens_described(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer.model", BYTES)
    folder_of(tmp_path, {"tokenizer_class": "ChatGLM4Tokenizer"})
    assert ids(Tokenizer.load(tmp_path), "12345<|user|>") == [258, 260, *b"12345", 256 + 7]
    described = {"256": "[gMASK]", "257": "<sop>", "258": "<|user|>"}
    decoder = {id: {"content": name, "special": True} for id, name in described.items()}
    folder_of(tmp_path, {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": decoder})
    assert ids(Tokenizer.load(tmp_path), "a<|user|>") == [256, 257, 97, 258]


def test_chatglm_takes_the_format_of_its_name(tmp_path: Path) -> None:
    with_model(tmp_path)
    for number, prompt in ((2, ChatGLM2Prompt), (3, ChatGLM3Prompt)):
        folder_of(tmp_path, {"tokenizer_class": "ChatGLMTokenizer", "name_or_path": f"THUDM/chatglm{number}-6b"})
        assert isinstance(Tokenizer.load(tmp_path).chat, prompt)
        folder_of(tmp_path, {"tokenizer_class": "ChatGLMTokenizer"}, {"_name_or_path": f"/mnt/ChatGLM{number}-6B-32k"})
        assert isinstance(Tokenizer.load(tmp_path).chat, prompt)
    (tmp_path / "tokenizer_config.json").unlink()
    folder_of(tmp_path, config={"model_type": "chatglm"})
    tokenizer = Tokenizer.load(tmp_path)
    assert isinstance(tokenizer.chat, ChatGLM3Prompt)
    size = tokenizer.vocab_size - 9
    assert ids(tokenizer, "a")[:2] == [size + 1, size + 3]


@pytest.mark.parametrize(
    "settings, prefix, suffix",
    [
        ({}, ["<s>"], []),
        ({"add_bos_token": False}, [], []),
        ({"add_bos_token": None, "add_eos_token": True}, ["<s>"], ["</s>"]),
        ({"bos_token": None}, [], []),
        ({"bos_token": {"content": "</s>"}}, ["</s>"], []),
    ],
)
def test_what_llama_puts_around_texts(
    tmp_path: Path, settings: dict[str, Any], prefix: list[str], suffix: list[str]
) -> None:
    with_model(folder_of(tmp_path, {"tokenizer_class": "LlamaTokenizerFast", **settings}))
    tokenizer = Tokenizer.load(tmp_path)
    names = {"<s>": 1, "</s>": 2}
    own = tokenizer.encode("hello", add_special_tokens=False)
    assert ids(tokenizer, "hello") == [*(names[n] for n in prefix), *own, *(names[n] for n in suffix)]
    assert isinstance(tokenizer.chat, Llama2Prompt)


def test_baichuan_chats_where_its_generation_config_names_the_speakers(tmp_path: Path) -> None:
    with_model(folder_of(tmp_path, {"tokenizer_class": "BaichuanTokenizer", "add_bos_token": False}))
    assert isinstance(Tokenizer.load(tmp_path).chat, PlainPrompt), "a base model"
    folder_of(tmp_path, generation={"user_token_id": 5, "assistant_token_id": 6})
    parts = Tokenizer.load(tmp_path).chat.parts(Conversation([{"role": "user", "content": "hi"}]))
    assert parts == [5, Text("hi"), 6]


def test_llamas_added_tokens_are_honoured(tmp_path: Path) -> None:
    size = 400
    decoder = {
        "1": {"content": "<s>", "special": True},
        str(size): {"content": "<|tool|>", "special": True},
        str(size + 1): {"content": "<think>", "special": False},
    }
    tokenizer = Tokenizer.load(with_model(folder_of(tmp_path, {"added_tokens_decoder": decoder})))
    encoded = tokenizer.encode("a<|tool|>hello<think>", add_special_tokens=False)
    assert encoded == [
        *tokenizer.encode("a", add_special_tokens=False), size,
        *tokenizer.encode("hello", add_special_tokens=False), size + 1,
    ]  # fmt: skip
    assert tokenizer.decode(encoded) == "a hello<think>"
    assert tokenizer.is_unassigned(size - 1)


def test_a_line_of_added_tokens_json(tmp_path: Path) -> None:
    """What older checkpoints have in place of added_tokens_decoder."""
    copy_gpt2_files(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 257, "<tool>": 258}')
    (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<|im_end|>"]}')
    tokenizer = Tokenizer.load(folder_of(tmp_path, {"tokenizer_class": "Qwen2Tokenizer"}))
    assert ids(tokenizer, "<|im_end|><tool>") == [257, 258]
    assert tokenizer.special_ids == {257}


def copy_gpt2_files(folder: Path) -> None:
    vocabulary = byte_alphabet() | {"<|endoftext|>": 256}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast"])
def test_gpt2(tmp_path: Path, name: str) -> None:
    copy_gpt2_files(tmp_path)
    tokenizer = Tokenizer.load(folder_of(tmp_path, {"tokenizer_class": name, "eos_token": "<|endoftext|>"}))
    assert ids(tokenizer, "a b<|endoftext|>") == [97, 32, 98, 256]
    assert (tokenizer.special_ids, tokenizer.eos_token_id) == ({256}, 256)
    assert isinstance(tokenizer.chat, PlainPrompt)


def test_qwen2_of_vocab_and_merges_is_the_one_of_tokenizer_json(tmp_path: Path) -> None:
    """Qwen2.5 and Qwen3 have the same words; the file in `shared` has both forms, of the one and the other."""
    texts = json.loads((shared("tokenizers") / "golden_tokens.json").read_text("utf-8"))["texts"]
    two, three = (Tokenizer.load(shared(f"tokenizers/{name}")) for name in ("qwen2.5", "qwen3"))
    assert [ids(two, text) for text in texts] == [ids(three, text) for text in texts]


@pytest.mark.parametrize(
    "tokenizer_config, named",
    [({"tokenizer_class": "T5Tokenizer"}, "class is T5Tokenizer, and known"), (None, "class is not given, and known")],
)
def test_a_class_that_is_not_known_is_named(tmp_path: Path, tokenizer_config: Any, named: str) -> None:
    copy_gpt2_files(folder_of(tmp_path, tokenizer_config))
    with pytest.raises(EngineDirError, match=named):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "other.tiktoken"])
def test_a_vocabulary_that_only_transformers_reads(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        EngineDirError, match=f"has {name} but no vocabulary that llmserve reads; make a tokenizer.json"
    ):
        vocabulary_files(tmp_path)


@pytest.mark.parametrize(
    "files, named",
    [
        ({"tokenizer.model": b"x"}, "not a usable SentencePiece model"),
        ({"tokenizer.model": b""}, "not a usable SentencePiece model"),
        ({"qwen.tiktoken": b"x"}, "no token and rank in line 1"),
        ({"vocab.json": b"[]", "merges.txt": b""}, "does not hold a JSON object"),
        ({"vocab.json": b'{"a": "b"}', "merges.txt": b""}, "gives a token the id 'b'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b c\n"}, "a line that is no pair of tokens: 'a b c'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b\n"}, "merges do not fit its vocabulary"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"\xff\n"}, "merges.txt is not UTF-8"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, files: dict[str, bytes], named: str) -> None:
    folder_of(tmp_path, config={"model_type": "gpt2"} if "vocab.json" in files else None)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EngineDirError, match=named) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tokenizer_config",
    [{"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": [1]}, {"add_bos_token": "yes"},
     {"added_tokens_decoder": {"1": {}}}, {"added_tokens_decoder": {"1": {"content": ""}}}],
)  # fmt: skip
def test_a_damaged_tokenizer_config_is_one_sentence(tmp_path: Path, tokenizer_config: Any) -> None:
    with_model(folder_of(tmp_path, tokenizer_config))
    with pytest.raises(EngineDirError, match=r"tokenizer_config\.json (or|says)"):
        Tokenizer.load(tmp_path)


def test_a_template_of_the_checkpoint_goes_before_the_originals_format(tmp_path: Path) -> None:
    write(tmp_path / "qwen.tiktoken", BYTES)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "T{{ messages[0].content }}"}')
    chat = Tokenizer.load(tmp_path).chat
    assert isinstance(chat, TemplatePrompt)
    assert chat.parts(Conversation([{"role": "user", "content": "x"}])) == [Text("Tx", names_are_tokens=True)]


def test_an_engine_reads_like_its_checkpoint(tmp_path: Path) -> None:
    """Everything that decides lies in the files that travel along."""
    for name in ("qwen1", "chatglm2", "chatglm3", "qwen2.5"):
        source, copy = shared(f"tokenizers/{name}"), tmp_path / name
        copy.mkdir()
        settings = ("tokenizer_config.json", "config.json", "generation_config.json")
        for file in (*vocabulary_files(source), *(source / name for name in settings)):
            if file.is_file():
                shutil.copy(file, copy)
        ours, theirs = Tokenizer.load(copy), Tokenizer.load(source)
        assert ours.chat.told == theirs.chat.told
        assert ours.encode("hi 世界", add_special_tokens=True) == theirs.encode("hi 世界", add_special_tokens=True)
