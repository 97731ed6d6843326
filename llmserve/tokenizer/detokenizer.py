"""Text out of tokens as they come, never with half a character in it.

What `feed` and `end` return, joined, is what decoding all tokens at once gives, whatever the tokens are, with one
exception: a decoder of the `tokenizers` library with byte tokens that meets a bad byte gives up the good characters of
the same run too, and those have been streamed by then. The cost of a token does not depend on how many came before.

Some decoders drop the space before a text's first word. Where the tokens continue a prompt's text
(`continues_text`), that space stands between two words and stays.
"""

from __future__ import annotations

from collections.abc import Callable

from llmserve.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """One sequence's text. `end` is called once, after the last token.

    Of special tokens only `shown` are text, by their names; all are without `skip_special_tokens`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
        continues_text: bool = False,
    ) -> None:
        self._has_no_text: Callable[[int], bool] = (
            tokenizer.is_silent if skip_special_tokens else tokenizer.is_unassigned
        )
        if shown:
            self._has_no_text = lambda token: token not in shown and tokenizer.is_silent(token)
        self._joiner = tokenizer.joiner(continues_text=continues_text)

    def feed(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return "" if self._has_no_text(token) else self._joiner.feed(token)

    def end(self) -> str:
        """The rest: a character that was never completed is U+FFFD."""
        return self._joiner.end()

    @property
    def held_characters(self) -> int:
        """How many whole characters were fed and are not out yet."""
        return self._joiner.held_characters
