"""Text out of tokens as they come, never with half a character in it.

What `feed` and `end` return, joined, is what decoding all tokens at once gives, whatever the tokens are, with one
exception: a SentencePiece decoder that meets a bad byte gives up the good characters of the same run of byte tokens
too, and those have been streamed by then. The cost of a token does not depend on how many came before.

Some decoders drop the space before a text's first word. Where the tokens continue a prompt's text
(`continues_text`), that space stands between two words and stays.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from llmserve.tokenizer.pieces import Pieces
from llmserve.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """One sequence's text. `end` is called once, after the last token."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, continues_text: bool = False) -> None:
        self._has_no_text: Callable[[int], bool] = (
            tokenizer.is_silent if skip_special_tokens else tokenizer.is_unassigned
        )
        self._joiner: _Bytes | _Texts = (
            _Bytes(tokenizer.pieces) if tokenizer.pieces.byte_level else _Texts(tokenizer.pieces, continues_text)
        )

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


class _Bytes:
    """Byte-level: UTF-8 decoding that waits for the rest of a character, and only for that."""

    held_characters = 0

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._utf8.decode(self._pieces.bytes_of(token))

    def end(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Texts:
    """Text tokens, each complete; byte tokens wait until they are whole characters.

    Bytes that cannot become UTF-8 wait for the end of their run, of which the decoder then makes what it will.
    """

    def __init__(self, pieces: Pieces, continues_text: bool) -> None:
        self._pieces = pieces
        self._run: list[int] = []
        self._first = not continues_text

    def feed(self, token: int) -> str:
        if self._pieces.is_byte(token):
            self._run.append(token)
            return self.end() if self._is_whole() else ""
        return self.end() + self._add([token])

    def end(self) -> str:
        run, self._run = self._run, []
        return self._add(run) if run else ""

    def _is_whole(self) -> bool:
        try:
            b"".join(map(self._pieces.bytes_of, self._run)).decode()
        except UnicodeDecodeError:
            return False
        return True

    @property
    def held_characters(self) -> int:
        return len(b"".join(map(self._pieces.bytes_of, self._run)).decode(errors="ignore"))

    def _add(self, tokens: list[int]) -> str:
        first, self._first = self._first, False
        return self._pieces.text_of(tokens, first=first)
