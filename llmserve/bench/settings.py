"""What `llmserve bench` is to do, checked: frozen values, and how they are written on the command line."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, PositiveInt

from llmserve.config import Frozen
from llmserve.errors import ConfigError


def _ascending(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{bounds[0]}-{bounds[1]} begins above its end")
    return bounds


Range = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)]
"""First and last."""


class OfflineSettings(Frozen):
    model_config = ConfigDict(strict=True)

    prompt_lens: tuple[PositiveInt, ...] = Field(min_length=1)
    batch_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    new_tokens: int = Field(ge=2)  # the time between tokens needs two
    repeats: int = Field(ge=1)
    seed: int


class ServeSettings(Frozen):
    model_config = ConfigDict(strict=True)

    url: str
    model: str | None  # None: the first that the server lists
    num_prompts: int = Field(ge=1)
    request_rate: float = Field(gt=0)  # per second; inf: all at once
    max_concurrency: int | None = Field(ge=1)
    input_len: Range
    output_len: Range
    vocab_size: int = Field(ge=2)  # prompts hold ids below it
    warmup: int = Field(ge=0)
    timeout: float = Field(gt=0)  # seconds that a connection may say nothing
    seed: int
    extra_body: dict[str, Any]
    api_key: str | None = Field(exclude=True, repr=False)  # into no file and onto no screen


def parse_counts(text: str, flag: str) -> tuple[int, ...]:
    """`1,2,4`, in ascending order and each once."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a list of whole numbers; write it like 1,2,4.") from None


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """`128`, or `64-256` with both ends included."""
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a length; write 128, or 64-256 for a range.") from None


def parse_rate(text: str, flag: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise ConfigError(f"{flag} {text!r} is not a rate; write requests per second like 2.5, or inf.")
    return rate


def parse_url(text: str, flag: str) -> str:
    """Without a `/v1` at its end, which many have at hand."""
    url = text.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    scheme, separator, rest = url.partition("://")
    if scheme not in ("http", "https") or not separator or not rest:
        raise ConfigError(f"{flag} {text!r} is not a server's address; write it like http://localhost:8000.")
    return url


def parse_extra(text: str | None, flag: str) -> dict[str, Any]:
    try:
        data = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ConfigError(f"{flag} {text!r} is not a JSON object; write it like '{{\"top_p\": 0.9}}'.")
    return data


def offline_values(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as they were written → what OfflineSettings takes."""
    return flags | {
        "prompt_lens": parse_counts(flags["prompt_lens"], "--prompt-lens"),
        "batch_sizes": parse_counts(flags["batch_sizes"], "--batch-sizes"),
    }


def serve_values(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as they were written → what ServeSettings takes."""
    return flags | {
        "url": parse_url(flags["url"], "--serve"),
        "request_rate": parse_rate(flags["request_rate"], "--request-rate"),
        "input_len": parse_range(flags["input_len"], "--input-len"),
        "output_len": parse_range(flags["output_len"], "--output-len"),
        "extra_body": parse_extra(flags["extra_body"], "--extra-body"),
    }
