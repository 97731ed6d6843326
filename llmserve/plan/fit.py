"""Whether what is needed fits a machine, and what is then left for the KV cache; and how fast memory lets it decode."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from llmserve.plan.machines import Machine
from llmserve.plan.needs import Needs

USEFUL = 1024
"""Tokens. A model that could hold no sequence of that length does not fit, unless that is longer than it can be."""

LENGTHS = (1024, 4096, 16384, 65536)
"""Tokens of a sequence, for which a plan says how many fit and how fast they are; and the longest that fits."""

MB = 10**6


@dataclass(frozen=True, slots=True)
class At:
    """Sequences that are all of one length."""

    length: int  # tokens
    sequences: int  # that fit at once
    tokens_per_second_one: float | None  # decode ceiling of one sequence alone; None: the bandwidth is not known
    tokens_per_second_all: float | None  # of all of them together


@dataclass(frozen=True, slots=True)
class Fit:
    machine: Machine
    fits: bool
    verdict: str
    memory: int  # bytes of a rank
    usable: int  # of these
    workspace: int  # bytes of a rank, with the scores of its longest sequence; an estimate
    kv_cache_memory: int  # bytes of a rank that are left for the KV cache
    tokens: int  # that it then holds
    max_model_len: int  # of the longest sequence; 0: none
    needed: int  # bytes of such a machine (of a shared one, for all ranks) with which it would fit
    at: tuple[At, ...]
    advice: tuple[str, ...] = ()


def fit(
    needs: Needs, machine: Machine, *, wanted: int | None, longest: int, max_num_seqs: int, utilization: float
) -> Fit:
    """`wanted`: tokens of a sequence that must fit, None: as many as do, up to `longest`, which the model can.

    `utilization`: the share of memory that may be used; the rest is for the driver, communication and what is lost
    between allocations.
    """
    ranks = len(needs.shares)
    memory = machine.memory_of_a_rank(ranks)
    usable = int(memory * utilization)
    left = max(0, usable - needs.fixed)
    one = left // (needs.kv_block + needs.block_size * needs.scores_token) * needs.block_size  # tokens, were it alone
    longest_here = min(wanted or longest, one)
    scores = longest_here * needs.scores_token
    left = (left - scores) // MB * MB
    blocks = left // needs.kv_block
    tokens = blocks * needs.block_size
    longest_here = min(longest_here, tokens)
    enough = wanted or min(longest, USEFUL)
    fits = longest_here >= enough
    lengths = sorted({length for length in LENGTHS if length < longest_here} | {longest_here})
    return Fit(
        machine=machine,
        fits=fits,
        verdict=_verdict(needs, memory, usable, longest_here, wanted or longest, enough),
        memory=memory,
        usable=usable,
        workspace=needs.workspace + scores,
        kv_cache_memory=left,
        tokens=tokens,
        max_model_len=longest_here if fits else 0,
        needed=_needed(needs, machine, enough, utilization),
        at=tuple(_at(needs, machine, length, blocks, max_num_seqs) for length in lengths) if fits else (),
    )


def _needed(needs: Needs, machine: Machine, enough: int, utilization: float) -> int:
    """In tens of megabytes, rounded up, as `readable` writes it."""
    rank = sum(_least(needs, enough)) + MB  # the KV cache is cut to whole ones
    return -(-ceil(rank / utilization) * (len(needs.shares) if machine.shared else 1) // (10 * MB)) * 10 * MB


def _least(needs: Needs, enough: int) -> tuple[int, int]:
    """Bytes of a rank without which there is no sequence of `enough` tokens: all but its KV cache, and that."""
    return needs.fixed + enough * needs.scores_token, -(-enough // needs.block_size) * needs.kv_block


def _at(needs: Needs, machine: Machine, length: int, blocks: int, max_num_seqs: int) -> At:
    sequences = min(max_num_seqs, blocks // -(-length // needs.block_size))
    return At(length, sequences, _ceiling(needs, machine, 1, length), _ceiling(needs, machine, sequences, length))


def _ceiling(needs: Needs, machine: Machine, batch: int, context: int) -> float | None:
    """Tokens a second of `batch` sequences, if each rank did nothing but read its bytes once a step."""
    bandwidth = machine.bandwidth_of_a_rank(len(needs.shares))
    if bandwidth is None:
        return None
    return batch * bandwidth / max(needs.read_of_a_step(share, batch, context) for share in needs.shares)


def _verdict(needs: Needs, memory: int, usable: int, longest_here: int, longest: int, enough: int) -> str:
    if longest_here < enough:
        fixed, cache = _least(needs, enough)
        return (
            f"does not fit: each rank needs {readable(fixed + cache)} ({readable(fixed)} for weights and workspace, "
            f"{readable(cache)} for one sequence of {enough:,} tokens) and may use {readable(usable)} of its "
            f"{readable(memory)}"
        )
    if longest_here < longest:
        return f"fits, with sequences of up to {longest_here:,} of the model's {longest:,} tokens"
    return f"fits, with sequences of {longest:,} tokens"


def readable(size: float) -> str:
    """In powers of 1000, as all of a plan: that is what GPUs are sold by."""
    if size >= 1e8:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.2f} kB"
