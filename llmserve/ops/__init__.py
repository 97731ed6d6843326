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
from typing import Any, Literal, Protocol

from torch import Tensor

from llmserve.ops.packed import PackedMatrix

Activation = Literal["silu", "gelu_tanh"]

Array = Any
"""Activations, one row a token: a torch tensor for the reference, a place in a program for the CPU table."""

Weights = Any
"""A matrix or tensor of parameters as a table wants it."""

Cache = Any
"""One layer's part of the paged KV cache."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """RMSNorm (Zhang & Sennrich 2019); with a bias LayerNorm (Ba et al. 2016). Computed in fp32."""

    weight: Weights
    eps: float
    bias: Weights | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far pair i of a head turns per position. A sequence turns by one of several sets, which its plan names."""

    inverse_frequencies: Tensor  # [sets, D/2] fp32; 0: a pair that does not turn
    factor: float  # of cosine and sine, of pairs that turn
    logn_from: int  # queries of positions p from here on grow by log(p + 1) / log(logn_from) (Qwen v1); 0: none do


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of one layer's attention. Query head h reads KV head h // (heads / kv_heads)."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the scores
    softcap: float  # scores become cap · tanh(score / cap) (Gemma 2); 0: they stay
    window: int | None  # each token sees only the last that many positions, its own included (Mistral)
    q_norm: Normalisation | None  # of each head's query and key before rotation (Qwen3)
    k_norm: Normalisation | None


@dataclass(frozen=True, slots=True)
class Routing:
    """How tokens choose among `experts`: the softmax of the router's outputs, of which the `per_token` largest count.

    Of equals the one that comes first. `shared`: the router has one output more, whose sigmoid weighs the expert that
    sees every token (Qwen2-MoE).
    """

    experts: int
    per_token: int
    renormalise: bool  # the chosen ones' weights are scaled to a sum of 1
    shared: bool
    activation: Activation  # of the experts


class Ops(Protocol):
    """T: tokens of the step. H: hidden size. N, K: a matrix's rows (outputs) and columns (inputs). D: head size."""

    name: str

    def matrix(self, packed: PackedMatrix) -> Weights:
        """Take a stored matrix, once, at load."""

    def tensor(self, stored: Tensor) -> Weights:
        """Take a stored vector (or a table that is read by row), once, at load."""

    def embedding(self, table: Weights, first: int, scale: float, positions: Weights | None) -> Array:
        """table [N, H] holds token ids first … first+N-1 → [T, H] of the step's tokens, 0 where an id is elsewhere.

        Times `scale`; plus the row of `positions` [P, H] that belongs to a token's position.
        """

    def all_reduce(self, x: Array) -> Array:
        """The sum over ranks."""

    def norm(self, x: Array, norm: Normalisation) -> tuple[Array, Array]:
        """x [T, H] → (norm(x), x)."""

    def add_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        """total = residual + post(x) → (norm(total), total); may add in place. post None: x as it is."""

    def wanted_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        """add_norm of the R rows whose logits are wanted, then the S whose hidden states are: [R+S, H] both.

        What follows has these rows alone.
        """

    def last_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        """x, residual [R+S, H], the wanted rows: norm(residual + post(x)) → [R, H], [S, H]."""

    def angles(self, rotation: Rotation) -> Array:
        """What the step's tokens are turned by; once for all layers."""

    def attention(self, qkv: Array, heads: Heads, angles: Array, cache: Cache) -> Array:
        """qkv [T, (heads + 2 · kv_heads) · D] → [T, heads · D].

        Queries and keys are rotated by the angles, halves being paired (i, i + D/2) as in Llama; keys and values go to
        the cache; each token then attends causally to its own sequence's blocks.
        """

    def linear(self, x: Array, weight: Weights, bias: Weights | None) -> Array:
        """x [T, K] · weight [N, K]ᵀ + bias [N] → [T, N]."""

    def gated(self, x: Array, gate_up: Weights, bias: Weights | None, activation: Activation) -> Array:
        """gate_up [2·I, K] → act(x · gateᵀ) · (x · upᵀ), [T, I] (SwiGLU, Shazeer 2020). I is a multiple of 32."""

    def activate(self, x: Array, activation: Activation) -> Array:
        """act(x), number by number. silu: x · sigmoid(x); gelu_tanh: Hendrycks & Gimpel 2016, by tanh."""

    def softcap(self, logits: Array, cap: float) -> Array:
        """cap · tanh(logit / cap), number by number; may write in place."""

    def route(self, x: Array, router: Weights, routing: Routing) -> Array:
        """x [T, H], router [experts (+ 1), H] → which experts each token goes to, and with what weights."""

    def experts(
        self, x: Array, routes: Array, gate_up: Weights, down: Weights, shared: Array | None, routing: Routing
    ) -> Array:
        """x [T, H] → Σ over a token's experts e, in their order, of weight · down_e(act(gate_e(x)) · up_e(x)), [T, H].

        gate_up [experts · 2·I, H] and down [experts · H, I] hold one expert after the other, every matrix padded to
        whole panels of 32 rows. shared [T, H] is added with its own weight.
        """
