"""Putting a text together token by token: one small state machine for each kind of decoder.

Two kinds exist among the decoders of the `tokenizers` library (see `pieces`); SentencePiece has a third of its own
(`sentencepiece_backend`). Knows no vocabulary: what a token is worth it is told.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Protocol


class Joiner(Protocol):
    """One sequence's text. `end` is called once, after the last token."""

    def feed(self, token: int) -> str:
        """The text that is certain now and was not before."""
        ...

    def end(self) -> str:
        """The rest: a character that was never completed is U+FFFD."""
        ...

    @property
    def held_characters(self) -> int:
        """How many whole characters were fed and are not out yet."""
        ...


class BytesJoiner:
    """Byte-level: UTF-8 decoding that waits for the rest of a character, and only for that."""

    held_characters = 0

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._waits = False  # for the rest of a character

    def feed(self, token: int) -> str:
        data = self._bytes_of(token)
        if not self._waits and data.isascii():  # most of most texts, at a third of the cost
            return data.decode("ascii")
        text = self._utf8.decode(data)
        self._waits = bool(self._utf8.getstate()[0])
        return text

    def end(self) -> str:
        return self._utf8.decode(b"", final=True)


class TextPieces(Protocol):
    """What `TextsJoiner` asks of a vocabulary; `pieces.Pieces` has it."""

    def bytes_of(self, token: int) -> bytes: ...

    def is_byte(self, token: int) -> bool: ...

    def text_of(self, tokens: list[int], *, first: bool) -> str: ...


class TextsJoiner:
    """Text tokens, each complete; byte tokens wait until they are whole characters.

    Bytes that cannot become UTF-8 wait for the end of their run, of which the decoder then makes what it will.
    """

    def __init__(self, pieces: TextPieces, continues_text: bool) -> None:
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
