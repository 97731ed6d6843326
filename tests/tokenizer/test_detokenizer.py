"""What comes out in parts is, joined, what decoding everything at once gives; and no part has half a character."""

from __future__ import annotations

import tracemalloc
from functools import partial

import pytest
import tokenizers
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from llmserve.errors import EngineDirError
from llmserve.tokenizer import Detokenizer, Tokenizer
from tests.instructions import instructions

from .conftest import byte_level, gemma_decoder, llama_decoder, sentencepiece_like, tokenizer_of

quick = settings(
    max_examples=150,
    deadline=None,
    # Where bytes spoil their runs (see conftest), most of what is drawn cannot be compared.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


def parts(tokenizer: Tokenizer, tokens: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.end()]


@quick
@given(data=st.data())
def test_any_tokens_give_what_decoding_them_at_once_gives(
    any_tokenizer: Tokenizer, spoils_runs: bool, data: st.DataObject
) -> None:
    # A few ids beyond the vocabulary: models have more rows than tokens.
    ids = st.integers(0, any_tokenizer.vocab_size + 5)
    low = st.integers(0, min(300, any_tokenizer.vocab_size))  # where the byte tokens are
    tokens = data.draw(st.lists(ids | low, max_size=30))
    skip = data.draw(st.booleans())
    whole = any_tokenizer.decode(tokens, skip_special_tokens=skip)
    assume(not (spoils_runs and "\ufffd" in whole))
    assert "".join(parts(any_tokenizer, tokens, skip_special_tokens=skip)) == whole


@quick
@given(data=st.data())
def test_tokens_that_continue_a_text_give_what_they_add_to_it(
    any_tokenizer: Tokenizer, spoils_runs: bool, data: st.DataObject
) -> None:
    ids = st.integers(0, any_tokenizer.vocab_size - 1)
    prompt = any_tokenizer.encode("a", add_special_tokens=False)
    tokens = data.draw(st.lists(ids, max_size=10))
    detokenizer = Detokenizer(any_tokenizer, continues_text=True)
    text = "".join(detokenizer.feed(token) for token in tokens) + detokenizer.end()
    whole = any_tokenizer.decode(prompt + tokens)
    assume(not (spoils_runs and "\ufffd" in whole))
    assert any_tokenizer.decode(prompt) + text == whole


@quick
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("明月🌟👩‍🚀é "), max_size=40))
def test_no_part_of_a_text_has_half_a_character(any_tokenizer: Tokenizer, text: str) -> None:
    tokens = any_tokenizer.encode(text, add_special_tokens=True)
    whole = any_tokenizer.decode(tokens)
    seen = parts(any_tokenizer, tokens)
    assert "".join(seen) == whole
    if "�" not in whole:
        assert not any("�" in part for part in seen)


@quick
@given(data=st.binary(max_size=40))
def test_any_bytes_of_a_byte_level_tokenizer(data: bytes) -> None:
    tokenizer = tokenizer_of(byte_level())
    by_byte = {tokenizer.token_bytes(id): id for id in range(256)}
    tokens = [by_byte[bytes([byte])] for byte in data]
    assert "".join(parts(tokenizer, tokens)) == tokenizer.decode(tokens) == data.decode(errors="replace")


@quick
@given(data=st.binary(max_size=20), llama=st.booleans())
def test_any_run_of_byte_tokens(data: bytes, llama: bool) -> None:
    tokenizer = tokenizer_of(sentencepiece_like(llama_decoder() if llama else gemma_decoder()))
    tokens = [3 + byte for byte in data]
    good = len(valid_beginning(data))
    rest = tokenizer.decode(tokens[good:])
    assert "".join(parts(tokenizer, tokens)) == data[:good].decode().removeprefix(" " if llama else "") + rest


def valid_beginning(data: bytes) -> bytes:
    """The longest beginning that is UTF-8."""
    for end in range(len(data), 0, -1):
        try:
            data[:end].decode()
        except UnicodeDecodeError:
            continue
        return data[:end]
    return b""


def test_characters_made_of_byte_tokens_come_one_by_one() -> None:
    tokenizer = tokenizer_of(sentencepiece_like(llama_decoder()))
    seen = [part for part in parts(tokenizer, [3 + byte for byte in "ཀ月🌟".encode()]) if part]
    assert seen == ["ཀ", "月", "🌟"]


def test_a_character_waits_for_its_last_byte_and_no_longer() -> None:
    tokenizer = tokenizer_of(byte_level())
    tokens = tokenizer.encode("月🌟x", add_special_tokens=False)
    assert len(tokens) == 2 + 3 + 1 or len(tokens) > 3  # 月 is two tokens, the emoji three or four
    seen = [part for part in parts(tokenizer, tokens) if part]
    assert seen == ["月", "🌟", "x"]


def test_a_byte_that_nothing_can_complete_comes_out_with_the_next_token() -> None:
    tokenizer = tokenizer_of(byte_level())
    by_byte = {tokenizer.token_bytes(id): id for id in range(256)}
    tokens = [by_byte[b"\xe6"], by_byte[b"a"], by_byte[b"\xf0"]]
    assert parts(tokenizer, tokens) == ["", "�a", "", "�"]


def test_the_cost_of_a_token_does_not_grow() -> None:
    """Nor is anything kept of those before, which a library would have to go through."""
    tokenizer = tokenizer_of(byte_level())
    detokenizer = Detokenizer(tokenizer)

    def feed(tokens: list[int]) -> None:
        for token in tokens:
            detokenizer.feed(token)

    for tokens in (tokenizer.encode("hello 明月 ", add_special_tokens=False), [0x80] * 10):
        feed(tokens)
        early = instructions(partial(feed, tokens))
        tracemalloc.start()
        feed(tokens * 2000)
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/llmserve/tokenizer/*")]).traces
        assert sum(trace.size for trace in ours) < 1000
        assert instructions(partial(feed, tokens)) == early > 0


@pytest.mark.parametrize(
    "decoder", [decoders.CTC(), decoders.BPEDecoder(), decoders.Strip(" ", 0, 1), decoders.Replace("ab", "c")]
)
def test_a_decoder_that_looks_at_neighbours_is_refused(decoder: decoders.Decoder) -> None:
    made = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    made.decoder = decoder
    with pytest.raises(EngineDirError, match="cannot be followed token by token"):
        tokenizer_of(made)


def test_tokens_without_a_decoder_are_joined_with_spaces() -> None:
    tokenizer = tokenizer_of(tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>")))
    assert parts(tokenizer, [0, 1, 0]) == ["a", " b", " a", ""]
    assert tokenizer.decode([0, 1, 0]) == "a b a"
