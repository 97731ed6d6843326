"""A SentencePiece model, with the tokens that a model's code adds to it by name.

The library itself encodes and decodes, so ids and texts are the original's by construction (the `tokenizers` library
can hold such a model, but not its handling of unknown characters and broken bytes). What is ours is decoding token by
token, by the rules of its decoder: U+2581 is a space; a space that begins a text was put there when encoding and goes;
of a run of byte tokens each whole character comes out and each byte that is part of none is one U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from llmserve.errors import EngineDirError
from llmserve.tokenizer.files import AddedToken
from llmserve.tokenizer.joiners import Joiner

SPACE = "▁"  # U+2581


class SentencePieceBackend:
    """See `backend.Backend`.

    `added`: tokens beside the model's own or in it, by name. `prefix` and `suffix` (names) are put around a text with
    `add_special_tokens`. `names_are_tokens`: names of added tokens in a text become those tokens (of Llama's tokenizer,
    not of ChatGLM's); the text around them is encoded piece by piece.
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        added: Sequence[AddedToken],
        *,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        names_are_tokens: bool,
    ) -> None:
        self._model = model
        self._size: int = model.get_piece_size()
        self._ids = {token.name: token.id for token in added}
        self._behind = {token.id: token.name for token in added if token.id >= self._size}
        names = sorted(self._ids, key=len, reverse=True)  # of two that begin alike, the longer
        self._name = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._names_are_tokens = names_are_tokens
        self._bytes = {i: _byte(model, i) for i in range(self._size) if model.is_byte(i)}
        own = (i for i in range(self._size) if model.is_control(i) or model.is_unknown(i))
        self.special_ids = frozenset(own) | {token.id for token in added if token.special}
        self.vocab_size = max([self._size, *(id + 1 for id in self._behind)])
        # Models that trim spaces drop all before a text, not the first alone: a lone space is none of its beginning.
        space = self.token_id(SPACE)
        self._trimmed = space if space is not None and model.decode([space, space]) == "" else None
        self.prefix_ids = tuple(map(self._known, prefix))
        self._suffix_ids = tuple(map(self._known, suffix))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = self.encode_marked(text) if self._names_are_tokens else self.encode_plain(text)
        return [*self.prefix_ids, *ids, *self._suffix_ids] if add_special_tokens else ids

    def encode_marked(self, text: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for name in self._name.finditer(text):
            ids += [*self.encode_plain(text[at : name.start()]), self._ids[name[0]]]
            at = name.end()
        return ids + self.encode_plain(text[at:])

    def encode_plain(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        shown = [t for t in tokens if not (self.is_unassigned(t) or (skip_special_tokens and t in self.special_ids))]
        if self._behind.keys().isdisjoint(shown):
            return self._model.decode(shown)
        return self._model.decode([self._written(t) for t in shown])  # a name that the model lacks is text to it

    def token_id(self, name: str) -> int | None:
        if name in self._ids:
            return self._ids[name]
        id = self._model.piece_to_id(name)
        return id if self._model.id_to_piece(id) == name else None

    def _known(self, name: str) -> int:
        id = self.token_id(name)
        if id is None:
            raise EngineDirError(f"The tokenizer has no token {name!r:.100}, which its prompts begin or end with.")
        return id

    def is_unassigned(self, token: int) -> bool:
        return not (0 <= token < self._size or token in self._behind)

    def bytes_of(self, token: int) -> bytes:
        if self.is_unassigned(token):
            return b""
        if token in self._bytes:
            return self._bytes[token]
        return self._written(token).replace(SPACE, " ").encode()

    def joiner(self, *, continues_text: bool) -> Joiner:
        return _Joiner(self, first=not continues_text)

    def byte(self, token: int) -> bytes | None:
        """A byte token's byte."""
        return self._bytes.get(token)

    def text(self, token: int, *, first: bool) -> str:
        """What a token that is no byte token adds to a text."""
        if first or token in self.special_ids or token in self._behind:
            return self._model.decode([self._written(token)])
        return self._model.id_to_piece(token).replace(SPACE, " ")

    def begins(self, token: int) -> bool:
        """Whether a text has begun with this token: control tokens are nothing in it, not even its beginning."""
        return token in self._behind or not (self._model.is_control(token) or token == self._trimmed)

    def _written(self, token: int) -> str:
        return self._behind[token] if token in self._behind else self._model.id_to_piece(token)


class _Joiner:
    def __init__(self, backend: SentencePieceBackend, *, first: bool) -> None:
        self._backend = backend
        self._first = first
        self._run = b""  # bytes that may still become a character

    def feed(self, token: int) -> str:
        byte = self._backend.byte(token)
        if byte is not None:
            self._first = False
            self._run += byte
            return self._characters()
        broken = self.end()
        text = broken + self._backend.text(token, first=self._first)
        self._first = self._first and not self._backend.begins(token)
        return text

    def end(self) -> str:
        run, self._run = self._run, b""
        return "\ufffd" * len(run)

    held_characters = 0

    def _characters(self) -> str:
        """What the run has of whole characters, and of bytes that nothing can complete; the rest stays."""
        text = ""
        while True:
            try:
                whole, self._run = self._run.decode(), b""
                return text + whole
            except UnicodeDecodeError as e:
                text += self._run[: e.start].decode()
                self._run = self._run[e.start :]
                if e.reason == "unexpected end of data":
                    return text
                text += "\ufffd"
                self._run = self._run[1:]


def load_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        data = path.read_bytes()
        if not data:
            raise RuntimeError("it is empty")  # which the library would not mind
        return sentencepiece.SentencePieceProcessor(model_proto=data)
    except OSError as e:
        raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:200]
        raise EngineDirError(
            f"{path} is not a usable SentencePiece model ({reason}); build the engine again."
        ) from None


def _byte(model: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    """`<0xE6>` → b"\\xe6"."""
    return bytes([int(model.id_to_piece(token)[1:-1], 16)])
