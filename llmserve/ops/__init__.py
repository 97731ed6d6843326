"""The device table: every operation a model is computed with, one signature each.

A model is written once, against `Ops`. The reference (torch, any device) computes each call as it is made; it is at
once the fallback and the oracle that other tables are tested against. The CPU table (ops/cpu) records the calls into a
program, once, and its kernels run the program for every step. So an *array* is whatever a table makes of one: layers
pass arrays on and never look inside.

The table is chosen once at start and logged; nothing falls back silently. Operations know nothing of layers, ranks or
requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from llmserve.ops.packed import PackedMatrix

Array = Any
"""Activations, one row a token: a torch tensor for the reference, a place in a program for the CPU table."""

Weights = Any
"""A matrix or tensor of parameters as a table wants it."""

Cache = Any
"""One layer's part of the paged KV cache."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of one layer's attention. Query head h reads KV head h // (heads / kv_heads)."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the scores
    window: int | None  # each token sees only the last that many positions, its own included (Mistral)
    q_norm: Weights | None  # RMSNorm of each head's query and key before rotation (Qwen3)
    k_norm: Weights | None
    norm_eps: float


class Ops(Protocol):
    """T: tokens of the step. H: hidden size. N, K: a matrix's rows (outputs) and columns (inputs). D: head size."""

    name: str

    def matrix(self, packed: PackedMatrix) -> Weights:
        """Take a stored matrix, once, at load."""

    def tensor(self, stored: Tensor) -> Weights:
        """Take a stored vector (or a table that is read by row), once, at load."""

    def embedding(self, table: Weights, first: int) -> Array:
        """table [N, H] holds token ids first … first+N-1 → [T, H] of the step's tokens, 0 where an id is elsewhere."""

    def all_reduce(self, x: Array) -> Array:
        """The sum over ranks."""

    def rms_norm(self, x: Array, weight: Weights, eps: float) -> tuple[Array, Array]:
        """x [T, H], weight [H] → (x / rms(x) · weight, x), the former computed in fp32 (Zhang & Sennrich 2019)."""

    def add_rms_norm(self, x: Array, residual: Array, weight: Weights, eps: float) -> tuple[Array, Array]:
        """(rms_norm(x + residual), x + residual); may add in place."""

    def last_norm(self, x: Array, residual: Array, weight: Weights, eps: float) -> Array:
        """rms_norm(x + residual) of the R rows whose logits are wanted, and of no others: [R, H]."""

    def angles(self, inverse_frequencies: Tensor) -> Array:
        """[D/2] fp32 → cos and sin of position · frequency for each of the step's tokens; once for all layers."""

    def attention(self, qkv: Array, heads: Heads, angles: Array, cache: Cache) -> Array:
        """qkv [T, (heads + 2 · kv_heads) · D] → [T, heads · D].

        Queries and keys are rotated by the angles, halves being paired (i, i + D/2) as in Llama; keys and values go to
        the cache; each token then attends causally to its own sequence's blocks.
        """

    def linear(self, x: Array, weight: Weights, bias: Weights | None) -> Array:
        """x [T, K] · weight [N, K]ᵀ + bias [N] → [T, N]."""

    def silu_gated(self, x: Array, gate_up: Weights, bias: Weights | None) -> Array:
        """gate_up [2·I, K] → silu(x · gateᵀ) · (x · upᵀ), [T, I] (SwiGLU, Shazeer 2020). I is a multiple of 32."""
