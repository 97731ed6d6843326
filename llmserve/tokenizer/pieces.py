"""What one token contributes to a text, so that a text can be put together token by token.

A tokenizer's decoder turns a list of tokens into a string. Two kinds of decoder exist among language models:

* byte-level (GPT-2, Llama 3, Qwen): a token is some bytes; the text is all bytes, read as UTF-8;
* text (SentencePiece and its relatives): a token is some characters, which may depend on whether it is the
  first, except for byte tokens `<0xE6>`: a run of those is read as UTF-8 as a whole, and if it is not valid,
  every byte of it becomes U+FFFD.

`Pieces` says which kind a decoder is and what each token is worth; `Detokenizer` adds them up. A decoder of
which neither can be said (one that looks at neighbours or at the last token) is refused at load.
"""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from llmserve.errors import EngineDirError


def byte_alphabet() -> dict[str, int]:
    """GPT-2's way of writing bytes as printable characters: those that are printable in Latin-1 stand for
    themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Pieces:
    """Each token's worth, worked out when it is first asked for."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        steps = _steps(tokenizer)
        self.byte_level = any(step["type"] == "ByteLevel" for step in steps)
        problem = _unsupported(steps)
        if problem:
            raise EngineDirError(
                f"The tokenizer's decoder ({problem}) cannot be followed token by token; "
                "use a checkpoint whose tokenizer.json has a byte-level or SentencePiece decoder."
            )
        self._tokenizer = tokenizer
        self._byte_tokens = _byte_tokens(tokenizer) if any(step["type"] == "ByteFallback" for step in steps) else {}
        self._alphabet = byte_alphabet()
        self._bytes: dict[int, bytes] = {}
        self._texts: dict[int, str] = {}
        self._anchor: int | None = None if self.byte_level else self._find_anchor()
        self._anchor_text = "" if self._anchor is None else tokenizer.decode([self._anchor], skip_special_tokens=False)

    def bytes_of(self, token: int) -> bytes:
        """The token's own bytes, apart from its place in a text; nothing for an id that no token has."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._work_out_bytes(token)
        return known

    def is_byte(self, token: int) -> bool:
        """Whether this is a byte token of a text decoder, to be read together with its neighbours."""
        return token in self._byte_tokens

    def text_of(self, tokens: list[int], *, first: bool) -> str:
        """What `tokens` (one token, or a run of byte tokens) add to a text of a text decoder.

        The decoder itself is asked, with a plain letter before the tokens unless they are the first,
        so that everything it does (spaces for U+2581, a leading space dropped, ...) is its own doing.
        """
        if first:
            return self._tokenizer.decode(tokens, skip_special_tokens=False)
        if len(tokens) == 1 and (known := self._texts.get(tokens[0])) is not None:
            return known
        before = [] if self._anchor is None else [self._anchor]
        text = self._tokenizer.decode(before + tokens, skip_special_tokens=False)[len(self._anchor_text) :]
        if len(tokens) == 1:
            self._texts[tokens[0]] = text
        return text

    def _work_out_bytes(self, token: int) -> bytes:
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if self.byte_level:
            try:
                return bytes(self._alphabet[char] for char in name)
            except KeyError:  # an added token that is plain text
                return name.encode()
        if token in self._byte_tokens:
            return bytes([self._byte_tokens[token]])
        return self.text_of([token], first=False).encode()

    def _find_anchor(self) -> int | None:
        """A token that is one plain letter wherever it stands."""
        for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
            for name in (letter, f"▁{letter}", f"##{letter}"):
                token = self._tokenizer.token_to_id(name)
                if token is not None:
                    return token
        # A vocabulary without Latin letters: any token that its decoder leaves as it is.
        for name, token in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if name.isalnum() and self._tokenizer.decode([token], skip_special_tokens=False) == name:
                return token
        return None


def _byte_tokens(tokenizer: tokenizers.Tokenizer) -> dict[int, int]:
    """The ids of `<0x00>` to `<0xFF>`, as far as the vocabulary has them."""
    ids = ((byte, tokenizer.token_to_id(f"<0x{byte:02X}>")) for byte in range(256))
    return {id: byte for byte, id in ids if id is not None}


def _steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The decoder's steps in order; none where tokens are joined with spaces."""
    if tokenizer.decoder is None:
        return []
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _unsupported(steps: list[dict[str, Any]]) -> str | None:
    """The name of the first step that is not a matter of one token and of being the first."""
    for step in steps:
        kind = step["type"]
        follows = (
            (kind == "ByteLevel" and len(steps) == 1)
            or kind in ("ByteFallback", "Fuse", "Metaspace", "WordPiece")
            or (kind == "Strip" and step["start"] <= 1 and step["stop"] == 0)
            or (kind == "Replace" and len(step["pattern"].get("String", "")) == 1)
        )
        if not follows:
            return str(kind)
    return None
