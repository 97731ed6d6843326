"""Logits to tokens, on rank 0. What a row yields depends on that row, the request's parameters, its seed and the
token's position, and on nothing else: random numbers are a function of (seed, position), not a stream."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from llmserve.ops.cpu import load_kernels
from llmserve.request import SamplingParams, TokenLogprobs
from llmserve.runtime.edits import Edits, edited
from llmserve.scheduler.plan import Sampled

_MASK = 2**64 - 1
_NOT_NUMBERS = Sampled(0, error="the model computed logits that are not numbers.")
_NO_TOKEN = Sampled(
    0,
    error="The request's parameters leave no token that could come next; loosen them.",
    refused=True,
)


class Want(NamedTuple):
    """What one row of logits is for."""

    params: SamplingParams
    position: int  # of the token that the row foretells, counted from the prompt's first
    given: int | None = None  # that token, where it is not to be chosen: only its log-probabilities are wanted
    edits: Edits | None = None  # of the row, before the token is chosen

    @property
    def logprobs(self) -> int | None:
        """As in SamplingParams, of this row."""
        return self.params.logprobs if self.given is None else self.params.prompt_logprobs

    @property
    def u(self) -> float:
        """Where the distribution is inverted."""
        draws = self.given is None and self.params.temperature > 0
        return uniform(self.params.seed, self.position) if draws else 0.0


Sample = Callable[[Tensor], list[Sampled]]
"""logits [R, vocab_size] fp32 → one token a row, that which is given where one is."""


class Sampler(Protocol):
    """Chosen once, with the device table, and logged; neither stands in for the other."""

    name: str

    def prepare(self, wants: list[Want]) -> Sample:
        """All that can be done before there are logits, one want for each of their rows."""


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for this seed and position: two rounds of the splitmix64 finaliser (Steele et al. 2014)."""
    return (_mix(_mix(seed) + position) >> 11) / 2**53


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class CpuSampler:
    """One call into the extension for all rows (csrc/sampling.hpp); the logits are read where they lie.

    One call at a time. `pool`: the rank's threads, which share the rows, while they have nothing else to do; without,
    it is the caller's own work."""

    def __init__(self, isa: str, pool: Any | None = None) -> None:
        self.name = f"CPU kernels ({isa})"
        kernels = load_kernels()
        self._rows = kernels.RowSampler(isa, pool)
        self._errors = {kernels.NOT_NUMBERS: _NOT_NUMBERS, kernels.NO_TOKEN: _NO_TOKEN}

    def prepare(self, wants: list[Want]) -> Sample:
        params = [w.params for w in wants]
        temperatures = array("d", [p.temperature for p in params])
        top_ks = array("i", [p.top_k for p in params])
        top_ps = array("d", [p.top_p for p in params])
        min_ps = array("d", [p.min_p for p in params])
        us = array("d", [w.u for w in wants])
        logprobs = array("i", [-1 if w.logprobs is None else w.logprobs for w in wants])
        given = array("i", [-1 if w.given is None else w.given for w in wants])
        edits = [(row, *w.edits) for row, w in enumerate(wants) if w.edits is not None]

        def sample(logits: Tensor) -> list[Sampled]:
            if logits.dtype != torch.float32 or logits.device.type != "cpu" or (len(wants) and logits.stride(1) != 1):
                raise ValueError(f"the CPU sampler reads fp32 rows in memory, not {logits.dtype} on {logits.device}")
            if len(logits) != len(wants):
                raise ValueError(f"{len(logits)} rows of logits for {len(wants)} tokens")
            rows = self._rows.sample(
                logits.data_ptr(), len(wants), logits.stride(0), logits.shape[1],
                temperatures, top_ks, top_ps, min_ps, us, logprobs, edits, given,
            )  # fmt: skip
            return [self._sampled(row) for row in rows]

        return sample

    def _sampled(self, row: int | tuple[int, tuple[Any, ...] | None]) -> Sampled:
        if isinstance(row, int):
            return self._errors[row]
        token, known = row
        return Sampled(token, None if known is None else TokenLogprobs(*known))


class TorchSampler:
    """On any device, a row at a time; the oracle of the other."""

    def __init__(self, device: torch.device) -> None:
        self.name = f"torch ({device})"

    def prepare(self, wants: list[Want]) -> Sample:
        return lambda logits: self._sample(logits, wants)

    @torch.inference_mode()
    def _sample(self, logits: Tensor, wants: list[Want]) -> list[Sampled]:
        finite = logits.isfinite().all(dim=1).tolist()
        greedy = logits.argmax(dim=1).tolist()
        return [
            _sample_row(row, want, best) if ok else _NOT_NUMBERS
            for row, want, best, ok in zip(logits, wants, greedy, finite, strict=True)
        ]


def _sample_row(row: Tensor, want: Want, best: int) -> Sampled:
    token = _choose(row, want, best) if want.given is None else want.given
    if token is None:
        return _NO_TOKEN
    return Sampled(token, None if want.logprobs is None else _logprobs(row, token, want.logprobs))


def _choose(row: Tensor, want: Want, best: int) -> int | None:
    """`best`: the row's largest. None where the edits leave no token."""
    if want.edits is not None:
        row = edited(row, want.edits)
        best = int(row.argmax())
        if row[best] == -torch.inf:
            return None
    return _draw(row, want.params, want.u) if want.params.temperature > 0 else best


def _draw(row: Tensor, params: SamplingParams, u: float) -> int:
    """Invert the distribution at u, after temperature, then min-p, then top-k, then top-p.

    That is vLLM's order (vllm/v1/sample/sampler.py). What min-p leaves does not depend on top-k, which always leaves
    the likeliest; top-p counts in what both have left.
    """
    ids: Tensor | None = None
    if 0 < params.top_k < len(row):
        # Stable: of equal logits at the k-th place the lower id stays. (topk takes any.)
        row, ids = (t[: params.top_k] for t in row.sort(descending=True, stable=True))
    elif params.top_p < 1:
        row, ids = row.sort(descending=True, stable=True)
    # In fp64, and after taking the maximum away: no temperature, however small, makes it overflow.
    exponents = (row.double() - row.max()) / params.temperature
    weights = exponents.exp()
    if params.min_p > 0:
        weights[exponents < math.log(params.min_p)] = 0
    total = weights.cumsum(0)
    if params.top_p < 1:
        # The fewest tokens, most likely first, whose probabilities reach top_p.
        kept = int(torch.searchsorted(total, params.top_p * total[-1])) + 1
        total = total[:kept]
    chosen = int(torch.searchsorted(total, u * total[-1], right=True))
    if chosen == len(total):  # where rounding leaves none, the last that weighs anything
        chosen = int(weights[:chosen].nonzero()[-1])
    return int(chosen if ids is None else ids[chosen])


def _logprobs(row: Tensor, token: int, count: int) -> TokenLogprobs:
    logs = row.log_softmax(0)
    values, ids = logs.topk(min(count, len(row)))
    rank = 1 + int((row > row[token]).sum()) + int((row[:token] == row[token]).sum())
    return TokenLogprobs(float(logs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)), rank)
