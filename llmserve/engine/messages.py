"""What the front and engine rank 0 say to each other over ZeroMQ, as msgpack.

Both sides import this and nothing else of each other. No torch, no HTTP.
"""

from __future__ import annotations

import msgspec

from llmserve.engine.capabilities import Capabilities
from llmserve.request import Request, TokenEvent


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    request: Request


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The front no longer wants this request; the engine answers with its final event unless it just ended."""

    request_id: int


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Finish what runs within `timeout` seconds, abort the rest, then stop."""

    timeout: float


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Start-up progress: `done` of `total` bytes of `phase`."""

    phase: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine takes requests. What it can hold, in tokens, and what it can do."""

    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    block_size: int
    tp_size: int
    device: str
    capabilities: Capabilities = Capabilities()


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Gauges of this moment and totals since start."""

    running: int
    waiting: int
    kv_usage: float  # 0 … 1: blocks in use, idle cached prefixes not counted
    preemptions: int
    prefix_queries: int  # prompt tokens looked up in the prefix cache
    prefix_hits: int  # of those, found
    steps: int
    scheduled_tokens: int


class Events(msgspec.Struct, frozen=True, tag="events"):
    """What one step yielded, of each request in order; `stats` now and then."""

    events: list[TokenEvent]
    stats: Stats | None = None


class Draining(msgspec.Struct, frozen=True, tag="draining"):
    """The engine was told to stop (by a signal, or by Drain): new requests are refused from here on."""


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """The last message of an engine that ends as it was asked to. A connection lost without it is a death."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last message of an engine that cannot go on: one sentence for the user."""

    error: str


ToEngine = Submit | Abort | Drain
ToFront = Loading | Ready | Events | Draining | Stopped | Failed | Stats

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_to_front = msgspec.msgpack.Decoder(ToFront).decode
