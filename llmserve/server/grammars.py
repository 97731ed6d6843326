"""What a client asks of an answer's form, as grammars: made here, and checked before anything is queued.

A grammar's text is llguidance's (docs/syntax.md of that library): a JSON schema, or Lark in its dialect, where rules
may hold `%json {schema}` and the names of special tokens (`<|im_end|>`). `lark` with `literal` and `inline_schema` is
what tool calls are made of. Knows nothing of HTTP, nor of which parameter a grammar comes from.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher

from llmserve.errors import RequestError
from llmserve.grammar import MAX_BYTES, Library, Vocabulary
from llmserve.server.admission import TooManyGrammarsError
from llmserve.server.streaming import encode
from llmserve.tokenizer import Tokenizer

Schema = Mapping[str, Any] | bool

NO_FORCING = '%llguidance {"no_forcing": true}'
"""Where just one text can come next, all its tokens may, and not only the first of those that the text would be written
in: to find that one the library would tokenise the whole rest of the text for every mask. The last such line counts.
"""

MAX_UNREAD = 16
"""Grammars that wait to be read at a time, those that have been read lately not counted."""

MAX_REFUSED = 16
"""Grammars that are known to be of no use: asked for again, they cost nothing."""

MAX_PATTERNS = 64

WHITESPACE = r"(?: |\n {0,40})"
"""Where JSON may have whitespace: as people write it, on one line or indented. Without a bound a model can go on with
it until its tokens are used up."""


def json_object() -> str:
    return json_schema({"type": "object"})


def json_schema(schema: Schema) -> str:
    """A JSON text that is valid by the schema (draft 2020-12, as far as llguidance knows it)."""
    return lark("start: " + inline_schema(schema))


def regex(pattern: str) -> str:
    """A text that the pattern matches as a whole, in the syntax of Rust's `regex` crate."""
    [grammar] = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"]
    return lark(grammar["lark_grammar"])


def choice(texts: Sequence[str]) -> str:
    """One of these."""
    return lark("start: " + " | ".join(map(literal, texts)))


def lark(text: str) -> str:
    """A Lark grammar, whose rule `start` is the answer. What it has of `%json` is as it stands: see `inline_schema`."""
    return json.dumps({"grammars": [{"lark_grammar": f"{text}\n{NO_FORCING}"}]})


def literal(text: str) -> str:
    """A text as it stands, within a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


def token(id: int) -> str:
    """A special token, within a Lark grammar."""
    return f"<[{id}]>"


def inline_schema(schema: Schema) -> str:
    """A JSON text that is valid by the schema, within a Lark grammar: the body of a rule.

    RequestError where it is too long, or has more patterns of names than can be read in time.
    """
    try:
        size = len(encode(schema))
    except RecursionError:
        raise RequestError("A schema is nested too deeply; make it flatter.") from None
    if size > MAX_BYTES:
        raise RequestError(f"A schema has {size} characters, and at most {MAX_BYTES} are possible; shorten it.")
    if (patterns := _patterns(schema)) > MAX_PATTERNS:
        raise RequestError(
            f"A schema's patternProperties have {patterns} patterns, and at most {MAX_PATTERNS} are possible; name the "
            "properties instead.",
            param="patternProperties",
        )
    return "%json " + json.dumps(_with_options(schema))


class Grammars:
    """Checks for one model. Reading a grammar may take long, so it is done in a thread, one after the other."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size`: the model's."""
        self._library = Library(lambda: Vocabulary.of(tokenizer, vocab_size))
        self._unread = 0
        self._refused: OrderedDict[str, str] = OrderedDict()  # lately, and why

    def begin(self) -> None:
        """See Library; the first grammar then waits for less."""
        self._library.begin()

    async def check(self, grammar: str, param: str) -> None:
        """RequestError, which names `param`, where the engine could not follow it. Cancelled, it is not read if it is
        not being read already."""
        library = self._library
        if len(grammar) > MAX_BYTES:
            raise RequestError(
                f"{param} makes a grammar of {len(grammar)} characters, and {MAX_BYTES} are the most; shorten it.",
                param=param,
            )
        if library.kept(grammar) is not None:
            return
        if grammar not in self._refused:
            if self._unread >= MAX_UNREAD:
                raise TooManyGrammarsError(self._unread)
            self._unread += 1
            try:
                await asyncio.get_running_loop().run_in_executor(library.thread, library.grammar, grammar)
                return
            except RequestError as e:
                self._refused[grammar] = str(e)
            finally:
                self._unread -= 1
        reason = self._refused[grammar]
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        raise RequestError(
            f"{param} asks for a form that no answer can be held to here; change it. What its reader says: {reason}",
            param=param,
        )


def _patterns(schema: Schema) -> int:
    """In how many patternProperties of its parts together: what reading them costs grows faster than their number."""
    patterns = 0
    left: list[Any] = [schema]
    while left:
        each = left.pop()
        if isinstance(each, Mapping):
            named = each.get("patternProperties")
            patterns += len(named) if isinstance(named, Mapping) else 0
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
    return patterns


def _with_options(schema: Schema) -> Schema:
    """What the schema itself says of llguidance's options is not looked at: its bounds are ours."""
    if schema is False:
        return False
    rules = {} if schema is True else schema
    return {**rules, "x-guidance": {"whitespace_pattern": WHITESPACE, "lenient": False}}
