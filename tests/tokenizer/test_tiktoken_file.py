"""tiktoken's files: the ids that tiktoken's own rule gives, for any vocabulary; files that are none."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.errors import EngineDirError
from llmserve.tokenizer.byte_level import ByteLevel, byte_level
from llmserve.tokenizer.files import AddedToken
from llmserve.tokenizer.library_backend import LibraryBackend
from llmserve.tokenizer.tiktoken_file import is_tiktoken, read_tiktoken

WORDS = r" ?[^ ]+| +"


def write(path: Path, ranks: dict[bytes, int]) -> Path:
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()]
    path.write_bytes(b"".join(lines))
    return path


def merged(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's rule, said plainly: the first of the pairs that join to the token of lowest rank, again and again."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[i : i + 1] for i in range(len(word))]
    while True:
        joined = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            return [ranks[part] for part in parts]
        _, i = min(joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


few_bytes = st.text("ab ", min_size=2, max_size=6).map(str.encode)


@settings(max_examples=400, deadline=None)
@given(tokens=st.lists(few_bytes, unique=True, max_size=14), text=st.text("ab c", max_size=30))
def test_any_vocabulary_merges_as_tiktoken_does(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[bytes], text: str
) -> None:
    """Also where ranks are in no order that training could have left, and tokens cannot be reached."""
    ranks = {token: rank for rank, token in enumerate([*(bytes([i]) for i in range(256)), *tokens])}
    file = write(tmp_path_factory.mktemp("ranks") / "tokenizer.model", ranks)
    backend = LibraryBackend(byte_level(ByteLevel(WORDS, whole_words=True), *read_tiktoken(file), []))
    expected = [id for word in re.findall(WORDS, text) for id in merged(word.encode(), ranks)]
    assert backend.encode(text, add_special_tokens=False) == expected
    assert backend.decode(expected, skip_special_tokens=False) == text


@pytest.fixture
def backend(tmp_path: Path) -> LibraryBackend:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256}
    added = [AddedToken(257, "<|end|>"), AddedToken(258, "<|start|>")]
    form = ByteLevel(WORDS, nfc=True, whole_words=True, prefix=("<|start|>",))
    return LibraryBackend(byte_level(form, *read_tiktoken(write(tmp_path / "x.tiktoken", ranks)), added))


def test_names_prefix_and_normal_form(backend: LibraryBackend) -> None:
    assert backend.encode("ab<|end|>", add_special_tokens=True) == [258, 256, 257]
    assert backend.encode_plain("ab<|end|>")[:2] == [256, ord("<")]
    assert backend.prefix_ids == (258,)
    assert bytes(backend.encode("e\u0301", add_special_tokens=False)) == "é".encode()


@pytest.mark.parametrize(
    "content, named",
    [
        (b"IQ== 0\nIg==\n", "has no token and rank in line 2"),
        (b"IQ== 0\n!!!! 1\n", "has no token and rank in line 2"),
        (b"IQ== 0\nIg== -1\n", "has no token and rank in line 2"),
        (b"IQ== 0\n" + base64.b64encode(b"x" * 5000) + b" 1\n", "has no token and rank in line 2"),
        (b"IQ== 0\nIg== 0\n", "gives two tokens the same rank"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "x.tiktoken").write_bytes(content)
    with pytest.raises(EngineDirError, match=named):
        read_tiktoken(tmp_path / "x.tiktoken")


@pytest.mark.parametrize("content, expected", [(b"IQ== 0\n", True), (b"\n\x0e\n\x05<unk>", False), (b"", False)])
def test_which_of_two_formats_a_tokenizer_model_has(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert is_tiktoken(tmp_path / "tokenizer.model") is expected


def test_an_added_token_whose_id_the_vocabulary_cannot_give_is_refused(tmp_path: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)}
    with pytest.raises(EngineDirError, match=r"'<\|end\|>' has the id 300, where the vocabulary leaves 256"):
        byte_level(ByteLevel(WORDS), *read_tiktoken(write(tmp_path / "x", ranks)), [AddedToken(300, "<|end|>")])
