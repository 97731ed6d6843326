"""config.json's rotary embedding: `rope_theta` with `rope_scaling`, or transformers 5's `rope_parameters` for both.

A rule that is not implemented is an error that names it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmserve.config import Rope
from llmserve.errors import CheckpointError

if TYPE_CHECKING:
    from llmserve.models.hf import HfConfig


def read_rope(
    hf: HfConfig, head_dim: int, max_position: int, turning: float | None, interleaved: bool
) -> tuple[Rope, int]:
    """The rule, and how many positions it makes of config.json's `max_position`.

    `turning`: the share of a head that rotates, where config.json does not say; None: always all of it.
    """
    scaling = hf.get("rope_scaling", dict, None) or hf.get("rope_parameters", dict, None) or {}
    inner = type(hf)(scaling)
    if nested := [key for key, value in scaling.items() if isinstance(value, dict)]:
        raise CheckpointError(
            f"config.json has a rope of its own for {' and for '.join(nested)}; llmserve computes one rope."
        )
    if turning is None:
        hf.require("partial_rotary_factor", 1.0)
        inner.require("partial_rotary_factor", 1.0)
    share = inner.positive("partial_rotary_factor", hf.positive("partial_rotary_factor", turning or 1.0))
    dim = int(head_dim * share)
    if not 2 <= dim <= head_dim or dim % 2:
        raise CheckpointError(
            f"config.json says partial_rotary_factor={share}, by which {dim} of a head's {head_dim} dimensions turn; "
            f"that must be an even number from 2 to {head_dim}."
        )
    common: dict[str, Any] = {
        "theta": inner.positive("rope_theta", hf.positive("rope_theta", 10000.0)),
        "dim": dim,
        "interleaved": interleaved,
    }
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return Rope(**common), max_position
    if kind == "linear":
        return Rope(**common, kind="linear", factor=inner.positive("factor")), max_position
    if kind == "llama3":
        return _llama3(hf, inner, common), max_position
    if kind == "yarn":
        return _yarn(inner, common, max_position)
    if kind in ("longrope", "su"):
        return _longrope(hf, inner, common, max_position), max_position
    raise CheckpointError(
        f"config.json asks for rope scaling {kind!r:.200}, which llmserve does not implement; it computes default, "
        "linear, llama3, yarn and longrope."
    )


def _llama3(hf: HfConfig, inner: HfConfig, common: dict[str, Any]) -> Rope:
    original = inner.count("original_max_position_embeddings")
    hf.require("original_max_position_embeddings", original)  # some files say it here too
    low, high = inner.positive("low_freq_factor"), inner.positive("high_freq_factor")
    if low >= high:
        raise CheckpointError(
            f"config.json says low_freq_factor={low} and high_freq_factor={high}; the first must be smaller."
        )
    return Rope(
        **common,
        kind="llama3",
        factor=inner.positive("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=original,
    )


def _yarn(inner: HfConfig, common: dict[str, Any], max_position: int) -> tuple[Rope, int]:
    """`max_position` may be of before or of after the stretching; both kinds of files exist."""
    original = inner.count("original_max_position_embeddings", max_position)
    factor = inner.positive("factor", max_position / original)

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    both = inner.get("mscale", float, None), inner.get("mscale_all_dim", float, None)
    default = grown(both[0]) / grown(both[1]) if both[0] and both[1] else grown(1.0)
    rope = Rope(
        **common,
        kind="yarn",
        factor=factor,
        beta_fast=inner.positive("beta_fast", 32.0),
        beta_slow=inner.positive("beta_slow", 1.0),
        truncate=inner.get("truncate", bool, True),
        attention_factor=inner.positive("attention_factor", default),
        original_max_position=original,
    )
    return rope, max(max_position, int(original * factor))


def _longrope(hf: HfConfig, inner: HfConfig, common: dict[str, Any], max_position: int) -> Rope:
    original = inner.count(
        "original_max_position_embeddings", hf.count("original_max_position_embeddings", max_position)
    )
    factor = inner.positive("factor", max_position / original)
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    pairs = common["dim"] // 2

    def factors(key: str) -> tuple[float, ...]:
        given = inner.get(key, list)
        if len(given) != pairs or not all(type(f) in (int, float) and 0 < f < math.inf for f in given):
            raise CheckpointError(
                f"config.json gives {key} as {given!r:.200}; rotating {common['dim']} dimensions needs {pairs} numbers "
                "above 0."
            )
        return tuple(map(float, given))

    return Rope(
        **common,
        kind="longrope",
        attention_factor=inner.positive("attention_factor", default),
        original_max_position=original,
        short_factors=factors("short_factor"),
        long_factors=factors("long_factor"),
    )
