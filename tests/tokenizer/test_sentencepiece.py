"""SentencePiece models: decoding token by token is the library's decoding of all, whatever a model's settings."""

from __future__ import annotations

import pytest

from llmserve.tokenizer import Detokenizer, Tokenizer
from llmserve.tokenizer.sentencepiece_backend import SentencePieceBackend

from .conftest import sentencepiece_backend, tokenizer_of


def streamed(backend: SentencePieceBackend, tokens: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer_of(backend))
    return "".join(map(detokenizer.feed, tokens)) + detokenizer.end()


def ids(backend: SentencePieceBackend, *names: str) -> list[int]:
    found = [backend.token_id(name) for name in names]
    assert None not in found
    return [id for id in found if id is not None]


@pytest.mark.parametrize("names, trimmed, kept", [
    (("▁hello",), "hello", "hello"),
    (("▁", "▁hello"), "hello", " hello"),  # one space was put before the text, or all before it are dropped
    (("<s>", "▁", "▁", "▁hello", "▁hello"), "hello hello", "  hello hello"),
    (("<0x20>", "▁hello"), "  hello", "  hello"),  # a byte is no space that was put there
])  # fmt: skip
def test_spaces_that_begin_a_text(names: tuple[str, ...], trimmed: str, kept: str) -> None:
    for backend, text in (
        (sentencepiece_backend(remove_extra_whitespaces=True), trimmed),
        (sentencepiece_backend(), kept),
    ):
        tokens = ids(backend, *names)
        assert backend.decode(tokens, skip_special_tokens=True) == streamed(backend, tokens) == text


@pytest.mark.parametrize(
    "data, text",
    [
        ("月".encode(), "月"),
        ("月".encode()[:2], "��"),  # one for each byte, where UTF-8's own rule has one for both
        (b"\xe6" + "月🌟".encode() + b"\xff", "�月🌟�"),  # what is whole stays
        (b"\xed\xa0\x80", "���"),  # a surrogate
        (b"\xc0\x80", "��"),  # too long a form
    ],
)
def test_bytes_whole_and_broken(data: bytes, text: str) -> None:
    backend = sentencepiece_backend()
    tokens = ids(backend, *(f"<0x{byte:02X}>" for byte in data))
    assert backend.decode(tokens, skip_special_tokens=True) == streamed(backend, tokens) == text


def test_names_in_a_text_where_they_count_and_where_they_do_not() -> None:
    user = ids(sentencepiece_backend(), "<|user|>")
    counting, ignoring = sentencepiece_backend(), sentencepiece_backend(names_are_tokens=False)
    text = "hello<|user|>hello"
    hello = counting.encode_plain("hello")
    assert counting.encode(text, add_special_tokens=True) == [1, *hello, *user, *hello]
    assert ignoring.encode(text, add_special_tokens=True) == [1, *ignoring.encode_plain(text)]
    assert counting.encode_plain(text) == ignoring.encode_plain(text)
    assert user[0] not in counting.encode_plain(text)
    assert ignoring.encode_marked(text) == counting.encode_marked(text) == [*hello, *user, *hello]


def test_tokens_of_the_code_beside_the_models() -> None:
    backend = sentencepiece_backend()
    tokenizer: Tokenizer = tokenizer_of(backend)
    user, added = ids(backend, "<|user|>", "plain text, 汉字")
    assert tokenizer.vocab_size == added + 1
    assert (tokenizer.is_silent(user), tokenizer.is_silent(added), tokenizer.is_unassigned(user + 1)) == (
        True,
        False,
        True,
    )
    assert tokenizer.decode([user, added]) == "plain text, 汉字"
    assert tokenizer.decode([user, added], skip_special_tokens=False) == "<|user|>plain text, 汉字"
    assert (tokenizer.token_text(user), tokenizer.token_bytes(user + 1)) == ("<|user|>", b"")
    assert tokenizer.token_text(ids(backend, "▁hello")[0]) == " hello"
