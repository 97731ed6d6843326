"""The files that say what a checkpoint's text is, read once, for whoever makes a vocabulary or chat prompts of them.

An engine directory keeps them as the checkpoint had them, so both are read alike. Knows what the keys of these files
mean to transformers, and nothing of what is made from them.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmserve.errors import EngineDirError

TOKENIZER_JSON = "tokenizer.json"
QWEN_TIKTOKEN = "qwen.tiktoken"
TOKENIZER_MODEL = "tokenizer.model"  # a SentencePiece model, or tiktoken ranks: two formats have this name
VOCAB_JSON = "vocab.json"
MERGES = "merges.txt"

VOCABULARIES = ((TOKENIZER_JSON,), (QWEN_TIKTOKEN,), (TOKENIZER_MODEL,), (VOCAB_JSON, MERGES))
"""What holds a vocabulary; of several that a checkpoint has, the first is read."""

UNREAD_VOCABULARIES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", VOCAB_JSON)
"""Vocabularies that transformers reads and that are not read here, to be named in an error."""

DEFAULT_TEMPLATE = "default"
TOOL_TEMPLATE = "tool_use"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token beside the vocabulary's own, as `added_tokens_decoder` describes it."""

    id: int
    name: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class TokenizerFiles:
    """A folder's. Every property raises EngineDirError, in one sentence, where its file cannot be used.

    `listed`: names of those that belong to it, as an engine's manifest has them; what else lies there is not read.
    None: all do.
    """

    def __init__(self, folder: Path, listed: Container[str] | None = None) -> None:
        self._folder = folder
        self._listed = listed

    def path(self, name: str) -> Path:
        return self._folder / name

    def has(self, name: str) -> bool:
        return (self._listed is None or name in self._listed) and self.path(name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """{} where there is no such file."""
        return read_json(self.path(name)) if self.has(name) else {}

    @cached_property
    def vocabulary(self) -> tuple[Path, ...]:
        """The files of the vocabulary; none where there is no tokenizer."""
        found = next((names for names in VOCABULARIES if all(map(self.has, names))), ())
        return tuple(map(self.path, found))

    @cached_property
    def unread_vocabulary(self) -> Path | None:
        """A vocabulary in a form that is not read, where there is none that is."""
        found = [self.path(name) for name in UNREAD_VOCABULARIES if self.has(name)]
        found += sorted(path for path in self._folder.glob("*.tiktoken") if self.has(path.name))
        return found[0] if found and not self.vocabulary else None

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        return self.json("tokenizer_config.json")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return self.json("config.json")

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        return self.json("generation_config.json")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """What the tokenizer is called, the surest first; transformers' fast and slow classes have one name here."""
        names = [self.tokenizer_config.get("tokenizer_class"), self.config.get("tokenizer_class")]
        return tuple(name.removesuffix("Fast") for name in names if isinstance(name, str))

    @property
    def model_type(self) -> str | None:
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None

    def flag(self, key: str, default: bool) -> bool:
        """Of tokenizer_config.json; null and absent are the default."""
        value = self.tokenizer_config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise EngineDirError(f"tokenizer_config.json says {key}={value!r:.100}; it must be true or false.")
        return value

    @cached_property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """By id: `added_tokens_decoder`, or added_tokens.json, which older checkpoints have instead."""
        described = self.tokenizer_config.get("added_tokens_decoder")
        if described is None:
            named = self.json("added_tokens.json")
            special = self._special_names
            described = {
                id: {"content": name, "special": name in special, "normalized": name not in special}
                for name, id in named.items()
            }
        try:
            tokens = [_added_token(id, fields) for id, fields in described.items()]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise EngineDirError(
                "tokenizer_config.json or added_tokens.json describes an added token that has no id and name; "
                "build the engine again."
            ) from None
        return tuple(sorted(tokens, key=lambda token: token.id))

    @cached_property
    def special_tokens(self) -> Mapping[str, str | list[str]]:
        """`bos_token` and the like, as chat templates name them."""
        merged = {**self.json("special_tokens_map.json"), **self.tokenizer_config}
        tokens: dict[str, str | list[str]] = {}
        for key, value in merged.items():
            if key.endswith("_token") and isinstance(value, str | dict):
                tokens[key] = _name(key, value)
            elif key == "additional_special_tokens" and isinstance(value, list):
                tokens[key] = [_name(key, each) for each in value]
        return tokens

    def special_token(self, key: str, default: str | None = None) -> str | None:
        """One of `special_tokens`; `default` where it is not given, None where it is given as null."""
        given = {**self.json("special_tokens_map.json"), **self.tokenizer_config}
        if key in given and given[key] is None:
            return None
        value = self.special_tokens.get(key, default)
        return value if isinstance(value, str) else default

    @cached_property
    def chat_templates(self) -> Mapping[str, str]:
        """By name; empty where the checkpoint has none. A file of its own goes before a key of another."""
        if self.has("chat_template.jinja"):
            return {DEFAULT_TEMPLATE: read_text(self.path("chat_template.jinja"))}
        for name, values in (
            ("chat_template.json", self.json("chat_template.json")),
            ("tokenizer_config.json", self.tokenizer_config),
        ):
            if values.get("chat_template") is not None:
                return _templates(self.path(name), values["chat_template"])
        return {}

    @cached_property
    def _special_names(self) -> frozenset[str]:
        return frozenset(name for value in self.special_tokens.values() for name in _each(value))


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise EngineDirError(f"{path} is not UTF-8 ({e}); build the engine again.") from None
    except OSError as e:
        raise EngineDirError(f"{path} cannot be read: {e.strerror or e}.") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as e:
        raise EngineDirError(f"{path} is not valid JSON ({e}); build the engine again.") from None
    if not isinstance(data, dict):
        raise EngineDirError(f"{path} does not hold a JSON object; build the engine again.")
    return data


def _templates(path: Path, value: Any) -> dict[str, str]:
    """One template, or a list of named ones."""
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        named = {entry.get("name"): entry.get("template", "") for entry in value}
    else:
        named = {DEFAULT_TEMPLATE: value}
    if not all(isinstance(template, str) for template in named.values()):
        raise EngineDirError(f"{path} has a chat_template that is no text; build the engine again.")
    return {str(name): template for name, template in named.items() if template}


def _added_token(id: Any, fields: Mapping[str, Any]) -> AddedToken:
    if not isinstance(fields["content"], str) or not fields["content"]:
        raise ValueError
    flags = {key: bool(fields.get(key)) for key in ("special", "lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(int(id), fields["content"], **flags)


def _name(key: str, value: Any) -> str:
    """A special token is a string, or an object that describes one."""
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise EngineDirError(f"tokenizer_config.json has a {key} that is no text; build the engine again.")
    return name


def _each(value: str | list[str]) -> Iterator[str]:
    return iter([value] if isinstance(value, str) else value)
