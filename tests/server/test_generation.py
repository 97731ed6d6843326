"""From events to text, without a server: any tokens, any stop strings, any seed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.request import Finish, SamplingParams, TokenEvent
from llmserve.server.generation import Choice, Delta, Job, derived_seed
from llmserve.tokenizer import StopStrings, Tokenizer

from ..tokenizer.conftest import llama_decoder, sentencepiece_like, tokenizer_of
from .conftest import END, TEXT, TOKENIZER, TOKENS, VOCAB


def answer(
    tokens: list[int],
    stops: list[str],
    finish: Finish,
    min_tokens: int = 0,
    tokenizer: Tokenizer = TOKENIZER,
    continues_text: bool = False,
    read_after: set[int] | None = None,
) -> tuple[list[Delta], Choice]:
    """The deltas of one choice whose tokens these are, read after those at these places; None: after each."""
    sampling = SamplingParams(max_tokens=len(tokens), min_tokens=min_tokens)
    prompt = tuple(tokenizer.encode("a", add_special_tokens=False))
    job = Job(
        [prompt],
        sampling,
        [len(tokens)],
        frozenset({END}),
        stops=StopStrings(stops),
        continues_text=continues_text,
        wants_tokens=True,
    )
    choice = Choice(0, job, tokenizer)
    deltas = []
    for i, token in enumerate(tokens):
        choice.take(TokenEvent(0, token, finish if i == len(tokens) - 1 else None))
        if choice.finish is not None:
            break
        if read_after is None or i in read_after:
            deltas += choice.show()
    deltas += choice.show()
    assert not choice.has_news
    assert [delta.finish is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    return deltas, choice


def plain_search(stops: list[str], text: str) -> tuple[str, str | None]:
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


tokens = st.lists(st.sampled_from(TOKENS) | st.integers(0, VOCAB - 1), min_size=1, max_size=40)
stops = st.lists(st.sampled_from(["世", "月", "🌟 w", "###", "#", "l", "lo", "�", "d. 👩‍🚀", " "]), max_size=3)


@settings(max_examples=400, deadline=None)
@given(tokens=tokens, stops=stops, read_after=st.none() | st.sets(st.integers(0, 40)))
def test_the_text_is_that_of_the_tokens_up_to_the_first_stop(
    tokens: list[int], stops: list[str], read_after: set[int] | None
) -> None:
    """However many tokens come together."""
    deltas, choice = answer(tokens, stops, Finish.LENGTH, read_after=read_after)
    text, stop = plain_search(stops, TOKENIZER.decode(tokens))
    assert "".join(delta.text for delta in deltas) == text
    assert (choice.finish, choice.stop_reason) == ((Finish.STOP, stop) if stop else (Finish.LENGTH, None))
    told = [token.id for delta in deltas for token in delta.tokens]
    assert told == tokens[: len(told)]
    assert deltas[-1].generated == len(told)
    assert stop is not None or told == tokens


SENTENCEPIECE = tokenizer_of(sentencepiece_like(llama_decoder()))


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from("a hello\n世界明🌟."), max_size=20),
    tokenizer=st.sampled_from([TOKENIZER, SENTENCEPIECE]),
)
def test_offsets_are_where_tokens_begin(text: str, tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a", add_special_tokens=False), *tokenizer.encode(text, add_special_tokens=False)]
    deltas, _ = answer(ids, [], Finish.LENGTH, tokenizer=tokenizer, continues_text=True)
    whole = "".join(delta.text for delta in deltas)
    for token in (token for delta in deltas for token in delta.tokens):
        own = tokenizer.token_text(token.id)
        assert "�" in own or token.id in tokenizer.special_ids or whole[token.offset :].startswith(own)


def test_a_stop_token_has_no_text_and_a_stop_string_before_it_counts() -> None:
    deltas, choice = answer([*TOKENS, 5], ["The End\n"], Finish.STOP)
    assert "".join(delta.text for delta in deltas) == TEXT.removesuffix("The End\n")
    assert choice.stop_reason == "The End\n"
    deltas, choice = answer([*TOKENS, 5], [], Finish.STOP)
    assert "".join(delta.text for delta in deltas) == TEXT
    assert choice.stop_reason == 5
    assert answer([*TOKENS, END], [], Finish.STOP)[1].stop_reason is None


def test_no_stop_string_counts_before_min_tokens() -> None:
    deltas, choice = answer(TOKENS, ["l", "w"], Finish.LENGTH, min_tokens=6)
    assert "".join(delta.text for delta in deltas) == "Hello 明月🌟 "
    assert choice.stop_reason == "w"


@given(seed=st.integers(), choice=st.integers(0, 127))
def test_any_seed_is_usable_and_choices_differ(seed: int, choice: int) -> None:
    derived = derived_seed(seed, choice)
    assert 0 <= derived < 2**63
    assert derived == derived_seed(seed, choice)
    assert choice == 0 or derived != derived_seed(seed, 0)
    assert choice != 0 or derived == seed % 2**63
