"""What a `Tokenizer` is made over: a vocabulary of one of the two libraries that read them.

One form for all vocabularies: tokenizer.json, tiktoken files and vocab.json with merges.txt become a
`library_backend.LibraryBackend`, SentencePiece models a `sentencepiece_backend.SentencePieceBackend`. What is said here
is what the two have in common; files, chat and HTTP are unknown to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmserve.tokenizer.joiners import Joiner


class Backend(Protocol):
    """Text to token ids and back. A *name* is how a special or added token is written, like `<|im_end|>`."""

    @property
    def vocab_size(self) -> int:
        """Ids are below it, added tokens included; not every id need have a token."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text: where they stand, an answer has nothing."""
        ...

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What `encode` puts before a text with `add_special_tokens`."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As the original tokenizer does by default; of most, names in the text become their tokens."""
        ...

    def encode_marked(self, text: str) -> list[int]:
        """A text that a template wrote: all names in it become their tokens, and nothing is put around it."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """The text and nothing else: whatever it says, no token of a name comes of it."""
        ...

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def token_id(self, name: str) -> int | None:
        """The id of the token that is written so."""
        ...

    def is_unassigned(self, token: int) -> bool:
        """Whether no token has this id."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """The token's own bytes, apart from its place in a text; nothing for an id that no token has."""
        ...

    def joiner(self, *, continues_text: bool) -> Joiner:
        """A new sequence's; `continues_text`: there is text before its first token."""
        ...
