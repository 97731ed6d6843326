"""Sequences that go through rope and attention of the CPU kernels, step by step, and what they should come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmserve.ops import Heads, Normalisation
from llmserve.ops.batch import Batch, Span
from llmserve.ops.packed import padded
from llmserve.ops.reference import attend, normalise, rotate, write_kv
from llmserve.scheduler.plan import Chunk
from tests.numerics.kernel_program import at, generator, inverse_scale, kernels, padded_vector, pool, words


@dataclass(frozen=True)
class Layer:
    """One layer's attention."""

    kind: str  # of the cache
    group: int  # query heads a KV head
    kv_heads: int
    dim: int
    window: int = 0
    normed: bool = False
    softcap: float = 0.0

    @property
    def heads(self) -> int:
        return self.group * self.kv_heads

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.dim

    @property
    def scale(self) -> float:
        return self.dim**-0.5

    @property
    def inverse(self) -> Tensor:
        return 10000.0 ** -(torch.arange(self.dim // 2) * 2 / self.dim)

    @property
    def norms(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if not self.normed:
            return None, None
        both = 1 + 0.3 * torch.randn(2, self.dim, generator=generator(self.dim))
        return both[0].clone(), both[1].clone()

    def data(self, length: int, seed: int) -> Tensor:
        """A sequence: [length, width], keys and values of different sizes by position."""
        x = torch.randn(length, self.width, generator=generator(seed))
        x[:, self.heads * self.dim :] *= torch.exp(0.5 * torch.randn(length, 1, generator=generator(seed + 1)))
        return x


class Player:
    """A program of one layer with its cache."""

    EPS = 1e-5

    def __init__(
        self, layer: Layer, isa: str, threads: int, *, rows: int, longest: int, block_size: int = 16, most: int = 0,
        num_blocks: int = 0,
    ) -> None:  # fmt: skip
        """`longest`: positions of a sequence. `most`: tokens of a step."""
        most = most or rows * longest
        columns = -(-longest // block_size)
        self.layer, self.block_size, self.num_blocks = layer, block_size, num_blocks or rows * columns
        self._program = kernels.Program(
            pool(threads), isa, max_tokens=most, rows=rows, columns=columns, num_blocks=self.num_blocks,
            block_size=block_size, vocab_size=1,
        )  # fmt: skip
        size = kernels.kv_block_bytes(layer.kind, block_size, layer.kv_heads, layer.dim)
        self._memory = torch.zeros(self.num_blocks * size + 64, dtype=torch.uint8)
        base = self._memory.data_ptr() + -self._memory.data_ptr() % 64
        cache = kernels.kv_cache(layer.kind, base, size, block_size, layer.kv_heads, layer.dim)
        self._stride = padded(layer.width)
        self._qkv = torch.zeros(most * self._stride)
        self._inverse = layer.inverse
        self._angles = torch.full((2, most, layer.dim // 2), torch.nan)
        self._q, self._out = (torch.full((most * layer.heads * layer.dim,), torch.nan) for _ in range(2))
        self._norms = [None if w is None else padded_vector(w) for w in layer.norms]
        cos, sin = self._angles
        self._program.angles(inverse=at(self._inverse), pairs=layer.dim // 2, cos=at(cos), sin=at(sin))
        self._program.rope(
            cache=cache, heads=layer.heads, qkv=at(self._qkv), stride=self._stride, q_norm=at(self._norms[0]),
            k_norm=at(self._norms[1]), eps=self.EPS, cos=at(cos), sin=at(sin), q=at(self._q),
        )  # fmt: skip
        self._program.attention(
            cache=cache, heads=layer.heads, window=layer.window, q=at(self._q), out=at(self._out), scale=layer.scale,
            softcap=layer.softcap,
        )  # fmt: skip

    def step(self, chunks: Sequence[tuple[int, int, Tensor, Sequence[int]]]) -> list[Tensor]:
        """(row, first position, tokens [n, width], the row's blocks from its first) → [n, heads · D] each."""
        plan = [Chunk(row, start, 0, (0,) * len(x), tuple(blocks), 0) for row, start, x, blocks in chunks]
        every = torch.cat([x for _, _, x, _ in chunks])
        self._qkv.zero_().view(-1, self._stride)[: len(every), : self.layer.width] = every
        self._out.fill_(torch.nan)
        self._program.begin(words(*plan))
        assert not self._program.run()
        out = self._out.view(-1, self.layer.heads * self.layer.dim)
        assert out[len(every) :].isnan().all()
        return [part.clone() for part in out[: len(every)].split([len(x) for _, _, x, _ in chunks])]


def whole(layer: Layer, isa: str, x: Tensor) -> Tensor:
    """A sequence by itself, in one step of one thread."""
    player = Player(layer, isa, 1, rows=1, longest=len(x))
    return player.step([(0, 0, x, range(player.num_blocks))])[0]


def quantised(x: Tensor) -> Tensor:
    """As a cache of bytes keeps it: one scale for each head's key or value."""
    largest = x.abs().amax(-1, keepdim=True)
    return (x * inverse_scale(largest)).round() * (largest / 127)


def reference(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """A sequence by itself → ([n, heads · D], the same of the magnitudes of V, by which errors are measured), fp64."""
    n, dim = len(x), layer.dim
    q, k, v = (part.unflatten(1, (-1, dim)) for part in x.split(
        [layer.heads * dim, layer.kv_heads * dim, layer.kv_heads * dim], dim=1))  # fmt: skip
    norms = [None if w is None else Normalisation(w, Player.EPS) for w in layer.norms]
    heads = Heads(layer.heads, layer.kv_heads, dim, layer.scale, layer.softcap, layer.window or None, *norms)
    if heads.q_norm is not None:
        q, k = normalise(q, heads.q_norm), normalise(k, heads.k_norm)
    angles = torch.arange(n)[:, None].float() * layer.inverse
    cos, sin = angles.double().cos().float(), angles.double().sin().float()  # to the last bit, as K will be rounded
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if layer.kind == "s8":
        k, v = quantised(k), quantised(v)
    if layer.kind == "bf16":
        q = q.bfloat16().float()
    slots = torch.arange(n)
    span = Span(0, n, n, 0)
    batch = Batch(slots, slots, slots, (span,), torch.zeros(1, 1, dtype=torch.int32), slots, slots[:0])
    results = []
    for values in (v, v.abs()):
        cache = torch.zeros(
            2, 1, n, layer.kv_heads, dim, dtype=torch.bfloat16 if layer.kind == "bf16" else torch.float32
        )
        write_kv(k, values, cache, slots)
        results.append(attend(q.double(), cache, batch, span, heads).flatten(1))
    return results[0], results[1]


def close(layer: Layer, got: Tensor, x: Tensor) -> bool:
    """To what the kind of the cache allows: fp32 sums; weights rounded to bf16; queries and weights of 16 bits."""
    right, size = reference(layer, x)
    loss = {"f32": 1e-5, "bf16": 2**-8, "s8": 1e-3}[layer.kind]
    slack = {"f32": 1e-6, "bf16": 1e-5, "s8": 3e-4}[layer.kind] * float(size.max())
    if layer.normed and layer.kind != "f32":
        # The norm may differ in the last bit, and then a number of K be rounded the other way: a step in one score.
        slack += {"bf16": 2**-8, "s8": 1 / 127}[layer.kind] * 16 * layer.scale * float(size.max())
    return bool(((got - right).abs() <= loss * size + slack).all())
