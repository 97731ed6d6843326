"""How near an engine's logits are to its checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    positions: int
    same_first: int  # of those, where the same token is the likeliest
    mean_kl: float  # Kullback-Leibler divergence of the engine from the checkpoint, in nats
    max_kl: float
    max_error: float  # of a logit, as a share of the range of its prompt's logits


def compare(ours: list[Tensor], exact: list[Tensor]) -> Agreement:
    """Both: of every prompt, [tokens, vocab_size] fp32."""
    divergences, same, error = [], 0, 0.0
    for a, b in zip(ours, exact, strict=True):
        same += int((a.argmax(1) == b.argmax(1)).sum())
        error = max(error, float((a - b).abs().max() / (b.max() - b.min())))
        logs = b.log_softmax(1)
        # Not below 0 but for rounding.
        divergences.append((logs.exp() * (logs - a.log_softmax(1))).sum(1).clamp(min=0))
    kl = torch.cat(divergences)
    return Agreement(len(kl), same, float(kl.mean()), float(kl.max()), error)


def describe(agreement: Agreement) -> list[tuple[str, str]]:
    """Rows of the closing table."""
    a = agreement
    return [
        ("same likeliest token", f"{a.same_first / a.positions:.1%} of {a.positions} positions"),
        ("KL from checkpoint", f"{a.mean_kl:.2g} nats in the mean, {a.max_kl:.2g} at most"),
        ("largest logit error", f"{a.max_error:.2%} of the logits' range"),
    ]
