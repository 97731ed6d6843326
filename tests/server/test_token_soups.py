"""A stream's text is the whole answer's, and both are the tokenizer's own decoding, whatever the tokens are.

A thousand soups: random bytes, characters cut anywhere, emoji, Chinese, combining marks, any ids at all. In front of a
decoder by itself each kind of tokenizer gets all of them, cut into deltas at random; over HTTP, with tokens that come
in messages of several, one of each kind gets a part.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llmserve.request import Finish, Request, SamplingParams, TokenEvent
from llmserve.server.generation import Choice, Job
from llmserve.tokenizer import Tokenizer

from ..tokenizer.conftest import SPOIL_RUNS, TOKENIZERS
from .chunks import put_together, stream
from .conftest import manifest, running_front

SOUPS = 1000
OVER_HTTP = 40
PIECES = [
    *("👩‍🚀", "🌟", "👍🏽", "🇨🇳", "明月", "世界和平", "ཀ", "שלום", "ñ", "café", "�"),
    *("e\u0301", "\u0915\u094d\u0937", "a\u0300\u0316\u0358", "\u200d", "\ufeff"),
    *(" ", "  ", "\n", "hello", " world"),
]


def soup(tokenizer: Tokenizer, bytes_of: dict[int, int], random_numbers: random.Random) -> list[int]:
    """Tokens that nobody would have encoded."""
    tokens: list[int] = []
    for _ in range(random_numbers.randint(1, 8)):
        kind = random_numbers.randrange(4)
        if kind == 0:
            tokens += tokenizer.encode(random_numbers.choice(PIECES), add_special_tokens=False)
        elif kind == 1:  # any ids, also some that no token has
            tokens += [random_numbers.randrange(tokenizer.vocab_size + 3) for _ in range(random_numbers.randint(1, 4))]
        else:  # bytes: at random, or of characters and cut
            raw = random_numbers.randbytes(random_numbers.randint(1, 6))
            if kind == 2:
                raw = random_numbers.choice(PIECES).encode()
                raw = raw[random_numbers.randrange(2) : random_numbers.randint(1, len(raw))]
            tokens += [bytes_of[byte] for byte in raw if byte in bytes_of]
    return tokens or tokenizer.encode("x", add_special_tokens=False)


def byte_tokens(tokenizer: Tokenizer) -> dict[int, int]:
    """Each byte's own token, where there is one."""
    ids = reversed(range(min(tokenizer.vocab_size, 300_000)))
    return {own[0]: id for id in ids if len(own := tokenizer.token_bytes(id)) == 1}


def texts(tokenizer: Tokenizer, tokens: list[int], random_numbers: random.Random | None) -> list[str]:
    """The deltas of an answer of these tokens; cut at random, or all in one."""
    job = Job([(0,)], SamplingParams(max_tokens=len(tokens)), [len(tokens)])
    choice = Choice(0, job, tokenizer)
    deltas = []
    for place, token in enumerate(tokens, 1):
        choice.take(TokenEvent(0, token, Finish.LENGTH if place == len(tokens) else None))
        if random_numbers is not None and random_numbers.random() < 0.6:
            deltas += choice.show()
    return [delta.text for delta in (*deltas, *choice.show())]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_soup_reads_the_same_however_it_is_cut(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    random_numbers, bytes_of = random.Random(f"soups {name}"), byte_tokens(tokenizer)
    broken = 0
    for _ in range(SOUPS):
        tokens = soup(tokenizer, bytes_of, random_numbers)
        whole = "".join(texts(tokenizer, tokens, None))
        assert "".join(texts(tokenizer, tokens, random_numbers)) == whole, tokens
        decoded = tokenizer.decode(tokens)
        broken += "�" in decoded
        if not (name in SPOIL_RUNS and "�" in decoded):
            assert whole == decoded, tokens
    assert broken > 50 or len(bytes_of) < 256, "or it is no soup"


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", "llama", "tokenizers/qwen1", "tokenizers/llama2"])
def test_a_soup_over_http_is_the_same_streamed_and_whole(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    random_numbers, bytes_of = random.Random(f"soups over HTTP {name}"), byte_tokens(tokenizer)
    soups = [soup(tokenizer, bytes_of, random_numbers)[:100] for _ in range(OVER_HTTP)]

    def script(request: Request) -> list[int]:
        return soups[request.sampling.seed]

    served = manifest()
    served = served.model_copy(update={"model": served.model.model_copy(update={"vocab_size": tokenizer.vocab_size})})
    endpoint = f"ipc://{tmp_path}/front.sock"
    with running_front(endpoint, tokenizer=tokenizer, manifest=served, script=script) as front:
        for seed, tokens in enumerate(soups):
            front.engine.steps_a_message = random_numbers.choice([1, 1, 2, 5])
            body = {"prompt": [0], "seed": seed, "max_tokens": len(tokens), "ignore_eos": True}
            [whole] = front.post("/v1/completions", **body).json()["choices"]
            [streamed] = put_together(stream(front, "/v1/completions", **body), 1)
            assert streamed == whole
            decoded = tokenizer.decode(tokens)
            if not (name in SPOIL_RUNS and "�" in decoded):
                assert whole["text"] == decoded
