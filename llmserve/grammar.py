"""Grammars that an answer must follow: which are accepted, and which tokens may come next.

Over the `llguidance` library, which keeps a parser's state for each answer and works masks out of it. A grammar is its
text in that library's JSON form (a JSON schema, or its dialect of Lark). The front and engine rank 0 both read it here,
within the same bounds, so that what the front accepts rank 0 can follow. Knows tokens by their ids and bytes; requests,
tensors and HTTP are elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from llmserve.errors import RequestError
from llmserve.tokenizer import Tokenizer

MAX_BYTES = 256 * 1024
"""Of a grammar's text."""

MAX_READING = 2.0
"""Seconds of one core's time that reading a grammar may take."""

MAX_KEPT = 64
"""Grammars that have been read and are kept; the one that was not asked for longest goes."""

REASON = "error: "
"""Begins the line in which a reader of regular expressions says what is wrong."""

MAX_REASON = 150
MAX_SENTENCE = 300
"""Characters of what the library says that are told."""

STACK_BYTES = 512 << 20
"""The library follows rules that name each other by recursion, as deep as a grammar of MAX_BYTES can make it. It is
address space; memory is what gets used."""


class Vocabulary:
    """A model's tokens as grammars see them."""

    def __init__(self, tokens: Sequence[bytes], special: Iterable[int]) -> None:
        """`tokens`: the bytes of each id, nothing where no token has it. `special`: those that are no text; a grammar
        may name them.
        """
        self.end = len(tokens)  # stands for the end of an answer; which tokens end one is for each request to say
        wrapper: Any = _Tokens(tokens, special)
        self.tokenizer = LLTokenizer(wrapper)

    @staticmethod
    def of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
        """`vocab_size`: the model's, which may be more or less than the tokenizer's."""
        return Vocabulary(
            [tokenizer.token_bytes(id) for id in range(vocab_size)],
            [id for id in tokenizer.special_ids if id < vocab_size],
        )


class _Tokens:
    """A vocabulary in the form that the library takes."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = None  # it adds one of its own, after the others

    def __init__(self, tokens: Sequence[bytes], special: Iterable[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = list(special)

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("only a grammar that forces tokens asks how a text is written, and none may")


class Grammar:
    """One that has been read. `matcher()` begins an answer."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        """RequestError, in one sentence, where it cannot be used. To be read in the thread of a Library; others run."""
        if len(text) > MAX_BYTES or len(text.encode()) > MAX_BYTES:
            raise RequestError(f"it has {len(text)} characters, and at most {MAX_BYTES} bytes are possible.")
        self._vocabulary = vocabulary
        started = time.thread_time()
        self._matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=_limits())
        self._matcher.compute_bitmask()  # what is worked out for the first token is there for every answer
        if self._matcher.is_error():
            raise RequestError(_sentence(self._matcher.get_error()))
        if (seconds := time.thread_time() - started) > MAX_READING:
            raise RequestError(f"it takes {seconds:.1f} s to read, and at most {MAX_READING:g} s are possible.")

    def matcher(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._vocabulary.end)


class Library:
    """Grammars that have been read, by their texts. To be used in its thread alone, but for what says otherwise."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self._read_vocabulary = read_vocabulary
        self._read: OrderedDict[str, Grammar] = OrderedDict()

    def begin(self) -> None:
        """Read the vocabulary now, in the thread, and not with the first grammar: of one of 150 000 tokens that takes
        two seconds of a core, for much of which no other Python runs in this process. For whoever has time."""
        self.thread.submit(lambda: self._vocabulary)

    @cached_property
    def thread(self) -> ThreadPoolExecutor:
        """One, to be called from any, with the stack that reading a grammar may need."""
        before = threading.stack_size(STACK_BYTES)
        try:
            pool = ThreadPoolExecutor(1, "grammars")
            pool.submit(int).result()  # the first task starts the thread
        finally:
            threading.stack_size(before)
        return pool

    def kept(self, text: str) -> Grammar | None:
        """The grammar, if it has been read lately; from any thread, so that nobody waits for what others have read."""
        grammar = self._read.get(text)
        if grammar is not None:
            with suppress(KeyError):  # the thread has just let go of it
                self._read.move_to_end(text)
        return grammar

    def grammar(self, text: str) -> Grammar:
        """RequestError where it cannot be used."""
        grammar = self._read.get(text) or Grammar(text, self._vocabulary)
        self._read[text] = grammar
        self._read.move_to_end(text)
        if len(self._read) > MAX_KEPT:
            self._read.popitem(last=False)
        return grammar

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._read_vocabulary()


class Matcher:
    """How far one answer has come."""

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        """`end`: see Vocabulary."""
        self._matcher = matcher
        self._end = end

    def advance(self, token: int) -> None:
        """The answer's next token. RequestError where it is none that was allowed, or where that is too hard to say."""
        if not self._matcher.consume_token(token):
            raise self._stuck()

    @property
    def complete(self) -> bool:
        """Whether nothing but the end can come."""
        return self._matcher.is_stopped()

    def allowed(self, ends: Iterable[int]) -> bytes:
        """Bit i % 8 of byte i // 8: whether token i may come next; whole words of 32 bits.

        `ends` may where the answer may end. RequestError where it is too hard to say; other threads run meanwhile.
        """
        mask = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            raise self._stuck()
        place, bit = divmod(self._end, 8)
        if mask[place] >> bit & 1:
            mask[place] &= ~(1 << bit)
            for token in ends:
                mask[token >> 3] |= 1 << (token & 7)
        return bytes(mask)

    def _stuck(self) -> RequestError:
        return RequestError(f"The answer's grammar cannot be followed further: {_sentence(self._matcher.get_error())}")


def _limits() -> LLParserLimits:
    """Less than the library's own: what one token of one request costs, all requests of its batch wait for."""
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,  # to read a grammar
        max_grammar_size=20_000,
        step_lexer_fuel=50_000,  # for a mask: some ms
        step_max_items=4_000,
        max_items_in_row=1_000,  # where a grammar is ambiguous, time grows with its third power
        max_lexer_states=30_000,  # some tens of MB
        verbose_errors=False,
    )


def _sentence(error: str) -> str:
    """The library's first line, which says it, short. Of a regular expression the reason stands in a later one, below
    the expression and marks under it."""
    line, *rest = error.strip().splitlines() or ["it is too complex"]
    if line == "NoExtensionBias":
        line = "no token of this model can come next"
    if line.startswith("panic:"):  # followed by what is for the library's authors
        line = "it is nothing that the grammar library can follow"
    reason = next((each.removeprefix(REASON) for each in rest if each.startswith(REASON)), "")[:MAX_REASON]
    if reason:  # what is too long is the expression, which comes before it
        line = _shortened(line, MAX_SENTENCE - len(reason) - 1) + " " + reason
    printable = "".join(char if char.isprintable() else " " for char in line[:MAX_SENTENCE])
    return printable.removesuffix(".") + "."


def _shortened(line: str, most: int) -> str:
    """Its beginning and its end."""
    if len(line) <= most:
        return line
    kept = (most - 1) // 2
    return f"{line[:kept]}…{line[-kept:]}"
