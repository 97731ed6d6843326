"""Logits to tokens, on rank 0. What a row yields depends on that row, the request's parameters, its seed and the
token's position, and on nothing else: random numbers are a function of (seed, position), not a stream."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from llmserve.request import SamplingParams, TokenLogprobs
from llmserve.scheduler.plan import Sampled

_MASK = 2**64 - 1


class Want(NamedTuple):
    """What one row of logits is for."""

    params: SamplingParams
    position: int  # of the token to be chosen, counted from the prompt's first
    num_generated: int  # tokens of the answer before it


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for this seed and position: two rounds of the splitmix64 finaliser (Steele et al. 2014)."""
    return (_mix(_mix(seed) + position) >> 11) / 2**53


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@torch.inference_mode()
def sample(logits: Tensor, wants: list[Want]) -> list[Sampled]:
    """logits [R, vocab_size] fp32, one want a row → one token a row."""
    finite = logits.isfinite().all(dim=1).tolist()
    greedy = logits.argmax(dim=1).tolist()
    return [
        _sample_row(row, want, best) if ok else Sampled(0, error="the model computed logits that are not numbers.")
        for row, want, best, ok in zip(logits, wants, greedy, finite, strict=True)
    ]


def _sample_row(row: Tensor, want: Want, best: int) -> Sampled:
    params = want.params
    candidates = row
    if params.stop_token_ids and want.num_generated < params.min_tokens:
        stops = [t for t in params.stop_token_ids if 0 <= t < len(row)]
        candidates = row.clone()
        candidates[stops] = -torch.inf
        best = int(candidates.argmax())
    token = best
    if params.temperature > 0:
        token = _draw(candidates, params, uniform(params.seed, want.position))
    return Sampled(token, None if params.logprobs is None else _logprobs(row, token, params.logprobs))


def _draw(row: Tensor, params: SamplingParams, u: float) -> int:
    """Invert the distribution at u, after temperature, then top-k, then top-p, as vLLM and transformers order them."""
    ids: Tensor | None = None
    if 0 < params.top_k < len(row):
        row, ids = row.topk(params.top_k)
    elif params.top_p < 1:
        row, ids = row.sort(descending=True, stable=True)
    # In fp64, and after taking the maximum away: no temperature, however small, makes it overflow.
    weights = ((row.double() - row.max()) / params.temperature).exp()
    total = weights.cumsum(0)
    if params.top_p < 1:
        # The fewest tokens, most likely first, whose probabilities reach top_p.
        kept = int(torch.searchsorted(total, params.top_p * total[-1])) + 1
        total = total[:kept]
    chosen = int(torch.searchsorted(total, u * total[-1], right=True).clamp(max=len(total) - 1))
    return int(chosen if ids is None else ids[chosen])


def _logprobs(row: Tensor, token: int, count: int) -> TokenLogprobs:
    logs = row.log_softmax(0)
    values, ids = logs.topk(min(count, len(row)))
    return TokenLogprobs(float(logs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
