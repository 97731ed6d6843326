"""A named parameter: which parts of the checkpoint it is made of, how it is stored, and (at run) what was stored.

Weights are pulled by the layer that needs them, as slices, so a build never holds more than a band of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmserve.errors import BuildError, EngineDirError
from llmserve.ops import Ops
from llmserve.quant import Scheme

BAND_BYTES = 32 << 20
"""How much of a checkpoint tensor, in fp32, a build handles at a time."""


class Source(Protocol):
    """A checkpoint, seen from here."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of the checkpoint tensor `source`, which has `of` rows; source None: rows of zeros."""

    source: str | None
    start: int
    stop: int
    of: int


class Parameter:
    """A matrix (or a vector) stacked from pieces, stored by a scheme as `name`.<suffix>."""

    def __init__(
        self,
        name: str,
        pieces: list[Piece],
        scheme: Scheme,
        *,
        in_features: int | None,
        cols: tuple[int, int] | None = None,
    ) -> None:
        """`in_features`: columns of every source tensor, None for vectors. `cols`: those taken, None for all."""
        self.name = name
        self.pieces = pieces
        self.scheme = scheme
        self.in_features = in_features
        self.cols = cols
        self.width = None if in_features is None else in_features if cols is None else cols[1] - cols[0]
        self.num_rows = sum(p.stop - p.start for p in pieces)
        self._stored: dict[str, Tensor] = {}

    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What a rank's shard file holds for this parameter: name → (shape, dtype)."""
        try:
            stored = self.scheme.layout(self.num_rows, self.width)
        except BuildError as e:
            raise BuildError(f"{self.name}: {e}") from None
        return {f"{self.name}.{suffix}": spec for suffix, spec in stored.items()}

    def pack(self, source: Source) -> Iterator[tuple[str, int, Tensor]]:
        """Band after band of what is stored: (name, first row, rows). Raises BuildError or CheckpointError."""
        at = 0
        step = max(1, BAND_BYTES // (4 * (self.width or 1)))
        for piece in self.pieces:
            self._check(piece, source)
            for start in range(piece.start, piece.stop, step):
                stop = min(start + step, piece.stop)
                band = self._band(source, piece, start, stop)
                try:
                    packed = self.scheme.pack(band)
                except BuildError as e:
                    raise BuildError(f"{piece.source}: {e}") from None
                for suffix, rows in packed.items():
                    yield f"{self.name}.{suffix}", at, rows
                at += stop - start

    def _check(self, piece: Piece, source: Source) -> None:
        if piece.source is None:
            return
        implied = (piece.of,) if self.in_features is None else (piece.of, self.in_features)
        if source.shape(piece.source) != implied:
            raise BuildError(
                f"{piece.source} has shape {list(source.shape(piece.source))}, but config.json implies "
                f"{list(implied)}; the checkpoint and its config do not belong together."
            )

    def _band(self, source: Source, piece: Piece, start: int, stop: int) -> Tensor:
        if piece.source is None:
            return torch.zeros((stop - start,) if self.width is None else (stop - start, self.width))
        band = source.rows(piece.source, start, stop, self.cols)
        if not torch.isfinite(band).all():
            raise BuildError(f"{piece.source} holds NaN or infinity; the checkpoint is damaged.")
        return band

    def load(self, shard: dict[str, Tensor], device: torch.device) -> None:
        """Take (and remove) this parameter's tensors from a rank's shard, strictly."""
        for name, (shape, dtype) in self.layout().items():
            tensor = shard.pop(name, None)
            if tensor is None:
                raise EngineDirError(f"the engine lacks the tensor {name}; build it again with this llmserve.")
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise EngineDirError(
                    f"the engine's tensor {name} is {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} "
                    f"{dtype}; build it again with this llmserve."
                )
            self._stored[name.rpartition(".")[2]] = tensor.to(device)

    @property
    def weight(self) -> Tensor:
        """The stored tensor of an unquantised parameter."""
        return self._stored["weight"]

    def matmul(self, ops: Ops, x: Tensor, bias: Parameter | None = None) -> Tensor:
        return self.scheme.matmul(ops, x, self._stored, None if bias is None else bias.weight)

    def stored(self) -> Mapping[str, Tensor]:
        return self._stored
