"""A checkpoint's tokenizer, loaded from the files that an engine directory keeps of it.

It does what tokenizer.json says and nothing besides: in particular, whether a prompt begins with a
beginning-of-text token is the post-processor's decision.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from llmserve.errors import EngineDirError, RequestError
from llmserve.tokenizer.chat_template import ChatTemplate
from llmserve.tokenizer.pieces import Pieces


class Tokenizer:
    """Text to token ids and back, with the model's chat template where it has one."""

    def __init__(self, backend: tokenizers.Tokenizer, chat_template: ChatTemplate | None = None) -> None:
        self._backend = backend
        self.chat_template = chat_template
        self.pieces = Pieces(backend)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Raises EngineDirError in one sentence where the files cannot be used."""
        path = folder / "tokenizer.json"
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises nothing more specific
            reason = " ".join(str(e).split())
            raise EngineDirError(f"{path} is not a usable tokenizer ({reason}); build the engine again.") from None
        # A saved tokenizer may still carry the padding and truncation of its training.
        backend.no_padding()
        backend.no_truncation()
        return Tokenizer(backend, _load_chat_template(folder))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise RequestError(
                f"character {e.start} is a lone surrogate, which is not valid Unicode; remove it."
            ) from None
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as e:
            if type(e).__name__ != "PanicException":  # Rust's, which is no Exception and can only be told by its name
                raise
            raise RequestError("the tokenizer gave up on it; shorten its longest words.") from None

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._backend.decode(list(tokens), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The token's own bytes; a token may be a part of a character."""
        return self.pieces.bytes_of(token)

    def token_text(self, token: int) -> str:
        """The token for people to read: U+FFFD stands for a part of a character."""
        return self.pieces.bytes_of(token).decode(errors="replace")

    def is_silent(self, token: int) -> bool:
        """Whether a text has nothing of this token: it is special, or no token has this id."""
        return token in self.special_ids or self.is_unassigned(token)

    def is_unassigned(self, token: int) -> bool:
        """Models often have a few more rows of embeddings than their vocabulary has tokens."""
        return self._backend.id_to_token(token) is None


def _load_chat_template(folder: Path) -> ChatTemplate | None:
    config = _read_json(folder / "tokenizer_config.json")
    own_file = folder / "chat_template.jinja"
    source: Any = _read_text(own_file) if own_file.is_file() else config.get("chat_template")
    if isinstance(source, list) and all(isinstance(entry, dict) for entry in source):  # by name: the default one
        source = next((entry.get("template", "") for entry in source if entry.get("name") == "default"), None)
    if source is not None and not isinstance(source, str):
        raise EngineDirError(
            f"{folder / 'tokenizer_config.json'} has a chat_template that is no text; build the engine again."
        )
    return ChatTemplate(source, _special_tokens(config)) if source else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str | list[str]]:
    """`bos_token` and the like; each is a string, or an object that describes one."""

    def text(value: Any) -> str:
        content = value.get("content") if isinstance(value, dict) else value
        if not isinstance(content, str):
            raise EngineDirError(f"tokenizer_config.json has a {key} that is no text; build the engine again.")
        return content

    tokens: dict[str, str | list[str]] = {}
    for key, value in config.items():
        if key.endswith("_token") and isinstance(value, str | dict):
            tokens[key] = text(value)
        elif key == "additional_special_tokens" and isinstance(value, list):
            tokens[key] = [text(each) for each in value]
    return tokens


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise EngineDirError(f"{path} is not UTF-8 ({e}); build the engine again.") from None
    except OSError as e:
        raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(_read_text(path))
    except (ValueError, RecursionError) as e:
        raise EngineDirError(f"{path} is not valid JSON ({e}); build the engine again.") from None
    if not isinstance(data, dict):
        raise EngineDirError(f"{path} does not hold a JSON object; build the engine again.")
    return data
