"""Rotary position embedding: how far each pair of a head's dimensions turns per position, by each model's rule.

The rotation itself is an operation of the device. Rules and their numbers: `llmserve.config.Rope`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmserve.config import Rope
from llmserve.ops import Rotation


def rotation(rope: Rope, head_dim: int, max_position: int) -> Rotation:
    """All sets of frequencies, [1 + rope.variants, head_dim / 2] fp32; pairs that do not turn have frequency 0."""
    count = 1 + len(rope.variants(max_position).lengths)
    sets = torch.stack([_inverse_frequencies(rope, i) for i in range(count)])
    return Rotation(F.pad(sets, (0, head_dim // 2 - sets.shape[1])), rope.attention_factor, rope.logn_from)


def _inverse_frequencies(rope: Rope, variant: int) -> Tensor:
    """[rope.dim / 2] fp32 (Su et al. 2021), after the scaling rule."""
    if rope.dim == 0:
        return torch.zeros(0)
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, plain)
    if rope.kind == "longrope":
        return plain / torch.tensor(rope.long_factors if variant else rope.short_factors, dtype=torch.float32)
    if rope.kind == "ntk":
        # Of a text of up to original_max_position · 2^variant tokens.
        stretch = 2.0 ** (variant + 1) - 1 if variant else 1.0
        return 1.0 / (rope.theta * stretch ** (rope.dim / (rope.dim - 2))) ** exponents
    return plain


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended linearly."""
    turns = rope.original_max_position * plain / (2 * math.pi)  # turns within the original context
    keep = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - keep) * plain / rope.factor + keep * plain


def _yarn(rope: Rope, plain: Tensor) -> Tensor:
    """Peng et al. 2023, as transformers reads it: kept where a pair turns more than `beta_fast` times within the
    original context, slowed by `factor` where less than `beta_slow` times, blended over the pairs between."""

    def pair(turns: float) -> float:
        """Which pair turns that often."""
        around = math.log(rope.original_max_position) - math.log(turns) - math.log(2 * math.pi)
        return rope.dim * around / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    slow = ((torch.arange(rope.dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return plain / rope.factor * slow + plain * (1 - slow)
