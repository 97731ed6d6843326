"""A named parameter: which parts of the checkpoint it is made of, how it is stored, and (at run) what was stored.

Weights are pulled by the layer that needs them, as slices, so a build never holds more than a band of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmserve.errors import BuildError, EngineDirError
from llmserve.ops import Ops, Weights
from llmserve.ops.cpu.packing import largest_magnitude
from llmserve.ops.packed import PANEL
from llmserve.quant import Layout, Scheme
from llmserve.quant.given_int4 import join, joined_width
from llmserve.quant.plain import narrow

BAND_BYTES = 32 << 20
"""How much of a checkpoint tensor, in fp32, a build handles at a time."""


class Source(Protocol):
    """A checkpoint, seen from here."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int, stop: int, cols: tuple[int, int] | None = None) -> Tensor: ...

    def groups(
        self, name: str, start: int, stop: int, cols: tuple[int, int] | None, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of a matrix that is int4 already, as `quant.given_int4.join` takes them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of the checkpoint tensor `source`, which has `of` rows; source None: rows of zeros."""

    source: str | None
    start: int
    stop: int
    of: int
    step: int = 1  # only every step'th row, from the first on
    transposed: bool = False  # the file has this matrix's columns as its rows (GPT-2)
    change: Callable[[Tensor], Tensor] | None = None  # what is to be done with rows as they are read

    @property
    def rows(self) -> int:
        return len(range(self.start, self.stop, self.step))


class Parameter:
    """Something stacked from pieces of the checkpoint, stored as `name`.<suffix>."""

    def __init__(
        self, name: str, pieces: list[Piece], *, in_features: int | None, cols: tuple[int, int] | None
    ) -> None:
        """`in_features`: columns of every source tensor, None for vectors. `cols`: those taken, None for all."""
        self.name = name
        self.pieces = pieces
        self.in_features = in_features
        self.cols = cols
        self.width = None if in_features is None else in_features if cols is None else cols[1] - cols[0]
        self._read_cols = cols
        self.num_rows = sum(p.rows for p in pieces)
        self.handle: Weights = None
        """What the device table made of it; set by `load`."""

    def layout(self) -> Layout:
        """What a rank's shard file holds for this parameter: name → (shape, dtype)."""
        try:
            return {f"{self.name}.{suffix}": spec for suffix, spec in self._layout().items()}
        except BuildError as e:
            raise BuildError(f"{self.name}: {e}") from None

    def check(self, source: Source) -> None:
        """Before anything is packed: BuildError where tensors have not the shapes that config.json implies."""
        for piece in self.pieces:
            self._check(piece, source)

    def pack(self, source: Source) -> Iterator[tuple[str, int, Tensor]]:
        """Band after band of what is stored: (name, where along its first dimension, what)."""
        for at, band, origin in self._bands(source):
            try:
                packed = self._pack(band)
            except BuildError as e:
                raise BuildError(f"{origin}: {e}") from None
            for suffix, part in packed.items():
                yield f"{self.name}.{suffix}", at // self._unit, part

    def load(self, shard: dict[str, Tensor], ops: Ops) -> None:
        """Take (and remove) this parameter's tensors from a rank's shard, strictly, and hand them to the device."""
        stored = {}
        for name, (shape, dtype) in self.layout().items():
            tensor = shard.pop(name, None)
            if tensor is None:
                raise EngineDirError(f"the engine lacks the tensor {name}; build it again with this llmserve.")
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise EngineDirError(
                    f"the engine's tensor {name} is {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} "
                    f"{dtype}; build it again with this llmserve."
                )
            stored[name.rpartition(".")[2]] = tensor
        self.handle = self._hand_over(stored, ops)

    # What a kind of parameter has to say for itself.

    _unit: int
    """Rows that one entry of a stored tensor's first dimension stands for."""

    def _layout(self) -> Layout:
        raise NotImplementedError

    def _pack(self, band: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _hand_over(self, stored: dict[str, Tensor], ops: Ops) -> Weights:
        raise NotImplementedError

    def _bands(self, source: Source) -> Iterator[tuple[int, Tensor, str | None]]:
        """(first row, rows, a source of them); whole units of rows, across the borders of pieces, but for the last."""
        at, rest = 0, None
        step = max(1, BAND_BYTES // (4 * (self.in_features or 1)) // self._unit) * self._unit
        for piece in self.pieces:
            for start in range(0, piece.rows, step):
                band = self._read(source, piece, start, min(start + step, piece.rows))
                if rest is not None:
                    both = torch.promote_types(rest.dtype, band.dtype)  # neither may lose what it says
                    band = torch.cat((rest.to(both), band.to(both)))
                whole = len(band) // self._unit * self._unit
                rest = band[whole:].clone() if whole < len(band) else None
                if whole:
                    yield at, band[:whole], piece.source
                    at += whole
        if rest is not None:
            yield at, rest, self.pieces[-1].source

    def _check(self, piece: Piece, source: Source) -> None:
        if piece.source is None:
            return
        implied = (piece.of,) if self.in_features is None else (piece.of, self.in_features)
        if piece.transposed:
            implied = implied[::-1]
        if source.shape(piece.source) != implied:
            raise BuildError(
                f"{piece.source} has shape {list(source.shape(piece.source))}, but config.json implies "
                f"{list(implied)}; the checkpoint and its config do not belong together."
            )

    def _read(self, source: Source, piece: Piece, start: int, stop: int) -> Tensor:
        """Rows start … stop-1 of those that the piece has."""
        if piece.source is None:
            return self._zeros(stop - start)
        first, last = piece.start + start * piece.step, piece.start + (stop - 1) * piece.step + 1
        if piece.transposed:
            assert self.in_features is not None
            band = source.rows(piece.source, *(self._read_cols or (0, self.in_features)), (first, last)).T
        else:
            band = self._rows(source, piece.source, first, last)
        if not math.isfinite(largest_magnitude(band)):
            raise BuildError(f"{piece.source} holds NaN or infinity; the checkpoint is damaged.")
        band = band[:: piece.step]
        return band if piece.change is None else piece.change(band)

    def _zeros(self, count: int) -> Tensor:
        width = self.in_features if self._read_cols is None else self.width
        return torch.zeros((count,) if width is None else (count, width))

    def _rows(self, source: Source, name: str, start: int, stop: int) -> Tensor:
        return source.rows(name, start, stop, self._read_cols)


class Matrix(Parameter):
    """Multiplied by; stored by a scheme, in panels."""

    _unit = PANEL

    def __init__(
        self, name: str, pieces: list[Piece], scheme: Scheme, in_features: int, cols: tuple[int, int] | None = None
    ) -> None:
        super().__init__(name, pieces, in_features=in_features, cols=cols)
        self.scheme = scheme
        if scheme.by_row:
            self._read_cols = None

    def _layout(self) -> Layout:
        assert self.width is not None
        assert self.in_features is not None
        group, (start, stop) = self.scheme.group_size, self.cols or (0, self.in_features)
        if group and (start % group or (stop % group and stop != self.in_features)):
            raise BuildError(f"{self.width} columns cannot be cut into int4 groups of {group}.")
        return self.scheme.layout(self.num_rows, self.width)

    def _zeros(self, count: int) -> Tensor:
        if self.scheme.given is None:
            return super()._zeros(count)
        assert self.width is not None
        return torch.zeros((count, joined_width(self.width, self.scheme.given)), dtype=torch.uint8)

    def _rows(self, source: Source, name: str, start: int, stop: int) -> Tensor:
        if self.scheme.given is None:
            return super()._rows(source, name, start, stop)
        return join(*source.groups(name, start, stop, self.cols, self.scheme.given))

    def _pack(self, band: Tensor) -> dict[str, Tensor]:
        return self.scheme.pack(band, self.cols) if self.scheme.by_row else self.scheme.pack(band)

    def _hand_over(self, stored: dict[str, Tensor], ops: Ops) -> Weights:
        assert self.width is not None
        return ops.matrix(self.scheme.matrix(stored, self.num_rows, self.width))


class Plain(Parameter):
    """A vector, or a table that is read row by row; stored as it is, in the engine's dtype."""

    _unit = 1

    def __init__(self, name: str, pieces: list[Piece], dtype: torch.dtype, in_features: int | None = None) -> None:
        super().__init__(name, pieces, in_features=in_features, cols=None)
        self.dtype = dtype

    def _layout(self) -> Layout:
        return {"weight": ((self.num_rows,) if self.width is None else (self.num_rows, self.width), self.dtype)}

    def _pack(self, band: Tensor) -> dict[str, Tensor]:
        return {"weight": narrow(band, self.dtype)}

    def _hand_over(self, stored: dict[str, Tensor], ops: Ops) -> Weights:
        return ops.tensor(stored["weight"])
