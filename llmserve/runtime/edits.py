"""What a request makes of a row of logits before a token is drawn from it: plain arrays, as the kernels read them.

The operations and their order are vLLM's (vllm/v1/sample/sampler.py): tokens that cannot be chosen (by a grammar,
allowed_token_ids, bad_words, min_tokens), logit_bias, then the penalties of repetition, frequency and presence.
Temperature, min_p, top_k and top_p come after, and are the sampler's. Knows nothing of requests.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import torch
from torch import Tensor

NO_IDS = array("i")
NO_BIASES = array("f")


class Edits(NamedTuple):
    """Of one row. Ids outside the vocabulary mean nothing. Who makes it keeps the arrays as they are for the step."""

    allowed: bytes | None = (
        None  # bit i % 8 of byte i // 8: whether token i can be chosen, in whole words of 32; None: any
    )
    banned: array[int] = NO_IDS  # int32
    biased: array[int] = NO_IDS  # int32, none twice
    biases: array[float] = NO_BIASES  # fp32, of each of `biased`
    seen: array[int] = NO_IDS  # int32: tokens of the prompt and the answer so far that penalties are for, none twice
    counts: array[int] = NO_IDS  # int32: how often each of `seen` is in the answer
    repetition: float = 1.0  # what is seen: logits above 0 are divided by it, others multiplied
    frequency: float = 0.0  # taken away for each time that a token is in the answer
    presence: float = 0.0  # taken away once from what is in the answer


def edited(row: Tensor, edits: Edits) -> Tensor:
    """row [vocab_size] fp32 → another, -inf what cannot come. The oracle of csrc/sampling_edits.hpp, bit for bit."""
    row = row.clone()
    if edits.allowed is not None:
        row[~_bits(edits.allowed, row)] = -torch.inf
    row[_places(edits.banned, row)] = -torch.inf
    places = _places(edits.biased, row)
    _set_numbers(row, places, row[places] + _kept(edits.biased, edits.biases, row))
    places = _places(edits.seen, row)
    counts = _kept(edits.seen, edits.counts, row)
    repetition, frequency, presence = (
        torch.tensor(x, dtype=torch.float32, device=row.device)
        for x in (edits.repetition, edits.frequency, edits.presence)
    )
    x = row[places]
    x = torch.where(x > 0, x / repetition, x * repetition)
    x = x - frequency * counts
    x = torch.where(counts > 0, x - presence, x)
    _set_numbers(row, places, x)
    return row


def _bits(mask: bytes, row: Tensor) -> Tensor:
    octets = torch.frombuffer(bytearray(mask), dtype=torch.uint8).to(row.device)
    bits = octets[:, None] >> torch.arange(8, dtype=torch.uint8, device=row.device) & 1
    return bits.flatten()[: len(row)].bool()


def _places(ids: array[int], row: Tensor) -> Tensor:
    return torch.tensor([i for i in ids if 0 <= i < len(row)], dtype=torch.long, device=row.device)


def _kept(ids: array[int], values: array[int] | array[float], row: Tensor) -> Tensor:
    """The values of those ids that the vocabulary has."""
    kept = [value for i, value in zip(ids, values, strict=True) if 0 <= i < len(row)]
    return torch.tensor(kept, dtype=torch.float32, device=row.device)


def _set_numbers(row: Tensor, places: Tensor, values: Tensor) -> None:
    """What cannot be chosen stays so, and what overflows is the largest number."""
    largest = torch.finfo(torch.float32).max
    row[places] = torch.where(row[places] == -torch.inf, row[places], values.clamp(-largest, largest))
